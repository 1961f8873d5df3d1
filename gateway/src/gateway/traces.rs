//! Sending of traces, where somebody is to have them.

use causeway_api::admin::Readiness;
use causeway_telemetry::{SpanExport, Tracer, log::in_one_line};

use super::{GatewayConfig, GatewayStartError};

/// Starts what sends spans, on the current runtime, and gives what makes them.
///
/// # Errors
/// When the receiver's address cannot be used.
pub(super) fn start_traces(
    config: &GatewayConfig,
) -> Result<(Tracer, Option<SpanExport>), GatewayStartError> {
    let Some(settings) = &config.otlp else {
        return Ok((Tracer::default(), None));
    };
    let started = SpanExport::start(
        settings,
        config.id(),
        &config.tasks,
        config.metrics.traces.clone(),
    );
    let (tracer, export) = started.map_err(|error| GatewayStartError::Traces(in_one_line(&error)))?;
    Ok((tracer, Some(export)))
}

/// Adds the check of the receiver, where there is one.
pub(super) fn with_check(checks: Readiness, export: Option<&SpanExport>) -> Readiness {
    match export {
        Some(export) => checks.with(export.check()),
        None => checks,
    }
}
