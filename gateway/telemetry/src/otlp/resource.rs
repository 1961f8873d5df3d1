//! Attributes by which every message tells of the gateway that it comes from.

use causeway_federation::name::GatewayId;
use opentelemetry::KeyValue;
use opentelemetry_proto::{
    tonic::{common::v1::InstrumentationScope, resource::v1::Resource as ResourceMessage},
    transform::common::tonic::ResourceAttributesWithSchema,
};
use opentelemetry_sdk::Resource;

/// Name of what has made the telemetry, inside of the program.
pub(super) const SCOPE: &str = "causeway";

/// Attributes of a gateway, and those of `OTEL_RESOURCE_ATTRIBUTES`.
#[derive(Debug, Clone)]
pub(super) struct OtlpResource(pub(super) Resource);

impl OtlpResource {
    pub(super) fn of(gateway: &GatewayId) -> Self {
        let resource = Resource::builder().with_attributes([
            KeyValue::new("service.name", "causeway"),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", gateway.to_string()),
            KeyValue::new("causeway.zone", gateway.zone.to_string()),
        ]);
        Self(resource.build())
    }

    pub(super) fn for_spans(&self) -> ResourceAttributesWithSchema {
        ResourceAttributesWithSchema::from(&self.0)
    }

    pub(super) fn message(&self) -> ResourceMessage {
        ResourceMessage {
            attributes: self.for_spans().attributes.0,
            ..ResourceMessage::default()
        }
    }

    pub(super) fn scope(&self) -> InstrumentationScope {
        InstrumentationScope {
            name: SCOPE.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        }
    }
}
