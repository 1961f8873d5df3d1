//! Shifts, as generations of the applied topology: the next state of one is an edit of the text in force, made and applied under one lock.

use std::time::SystemTime;

use causeway_federation::{
    name::{GatewayId, ServiceName},
    topology::{
        ChangeableParts, EditError, Service, Shift, ShiftRefusal,
        applied::{Applied, TopologyRefusal},
        shift_reason, with_shift,
    },
};

use super::{AppliedTopology, ApplyError, ApplyOutcome, Applying, Work, base};

/// Treatment of services that an apply changes and that are under a shift.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverShifts {
    /// It is refused.
    Refuse,
    /// Their shifts end, and what is applied counts.
    Abort,
}

impl OverShifts {
    /// Returns the text that is to be applied. Texts that cannot be used are for others to refuse.
    pub(super) fn settle(
        self,
        applied: &Applied,
        expected: u64,
        text: String,
    ) -> Result<String, TopologyRefusal> {
        let under_shift = match applied.topology() {
            Some(topology)
                if topology
                    .services
                    .values()
                    .any(|service| service.active_shift().is_some()) =>
            {
                applied.draft(expected, &text)?.under_shift
            }
            // Only a text that says so itself could put one under a shift.
            _ if text.contains("shift") => applied.draft(expected, &text)?.under_shift,
            _ => Vec::new(),
        };
        match self {
            _ if under_shift.is_empty() => Ok(text),
            Self::Refuse => Err(TopologyRefusal::UnderShift(under_shift)),
            Self::Abort => {
                let without = under_shift.iter().try_fold(text, |text, service| {
                    match with_shift(&text, service, None) {
                        // It is removed altogether.
                        Err(EditError::UnknownService(_)) => Ok(text),
                        edited => edited,
                    }
                });
                without.map_err(|_| TopologyRefusal::UnderShift(under_shift))
            }
        }
    }
}

/// Reason that a shift is not begun, or not changed so.
#[derive(Debug, thiserror::Error)]
pub enum SteerError {
    #[error(transparent)]
    Refused(#[from] ShiftRefusal),
    #[error(transparent)]
    Edit(#[from] EditError),
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

impl AppliedTopology {
    /// The gateway that applies here.
    #[must_use]
    pub fn by(&self) -> &GatewayId {
        &self.0.by
    }

    /// Gives the shift of a service the state that `change` makes of the service as it is, for somebody who `may` change so much. It is on
    /// disk, and in force here, when this returns.
    ///
    /// # Errors
    /// When `change` refuses, the text cannot be edited, or it may not be applied. Nothing has changed then.
    pub async fn steer(
        &self,
        service: ServiceName,
        may: ChangeableParts,
        applying: Applying,
        change: impl FnOnce(&Service, &GatewayId, SystemTime) -> Result<Shift, ShiftRefusal> + Send + 'static,
    ) -> Result<ApplyOutcome, SteerError> {
        let this = self.clone();
        let work = tokio::task::spawn_blocking(move || {
            let mut work = this.0.work.lock();
            let (text, reason) = this.edited(&work, &service, change)?;
            let expected = work.applied.edition().generation;
            Ok(this.apply_now(&mut work, expected, (&text, &reason, &may), applying)?)
        });
        work.await.map_err(ApplyError::Interrupted)?
    }

    /// The text with the next state of a shift, and the reason to tell.
    fn edited(
        &self,
        work: &Work,
        service: &ServiceName,
        change: impl FnOnce(&Service, &GatewayId, SystemTime) -> Result<Shift, ShiftRefusal>,
    ) -> Result<(String, String), SteerError> {
        let topology = work.applied.topology().ok_or(EditError::Unreadable)?;
        let known = topology.services.get(service);
        let known = known.ok_or_else(|| EditError::UnknownService(service.clone()))?;
        let next = change(known, &self.0.by, SystemTime::now())?;
        let text = self.text_in_force(work).ok_or(EditError::Unreadable)?;
        let edited = with_shift(base::split(&text).1, service, Some(&next))?;
        Ok((edited, shift_reason(service, &next)))
    }
}
