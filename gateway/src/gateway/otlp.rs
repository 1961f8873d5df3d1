//! Sending of telemetry, where somebody is to have it.

use causeway_api::admin::Readiness;
use causeway_telemetry::{
    OtlpExport, Tracer,
    log::{self, in_one_line},
};

use super::{GatewayConfig, GatewayStartError};

/// Starts what sends spans and the log, on the current runtime, and gives what makes spans. Metrics follow once there are all of them.
///
/// # Errors
/// When the receiver's address cannot be used.
pub(super) fn start_otlp(config: &GatewayConfig) -> Result<(Tracer, Option<OtlpExport>), GatewayStartError> {
    let Some(settings) = &config.otlp else {
        return Ok((Tracer::default(), None));
    };
    let metrics = config.metrics.otlp.clone();
    let started = OtlpExport::start(settings, config.id(), &config.tasks, metrics, &log::tap());
    let (tracer, export) = started.map_err(|error| GatewayStartError::Otlp(in_one_line(&error)))?;
    Ok((tracer, Some(export)))
}

/// Adds the check of the receiver, where there is one.
pub(super) fn with_check(checks: Readiness, export: Option<&OtlpExport>) -> Readiness {
    match export {
        Some(export) => checks.with(export.check()),
        None => checks,
    }
}
