//! Renewing the certificate of a running gateway by itself, at half of its life, and helping gateways of other zones to
//! reach the CA; and coming back with a join token once it has ended. Taking the new certificate up is [`causeway_identity`]'s and the tunnels' business.

mod join_token;
mod reach;
mod relay;
mod schedule;
mod settings;
mod task;

pub use join_token::{JoinTokenFile, JoinTokenFileError};
pub use reach::ReachError;
pub use relay::Relay;
pub use schedule::RenewalSchedule;
pub use settings::{SETTINGS_FILE, Settings, SettingsError};
pub use task::{Renewal, RenewalStatus, WayBack};
