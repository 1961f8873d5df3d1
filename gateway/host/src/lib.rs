//! The machine a gateway runs on: its files, folders and sockets, waits between tries, and the tasks of this process. Nothing
//! here knows of zones, services or identities.

#![warn(unreachable_pub)]

pub mod accept;
pub mod backoff;
pub mod beside;
pub mod descriptor_store;
pub mod descriptors;
pub mod files;
pub mod first_process;
pub mod handed;
pub mod handover;
pub mod held;
pub mod host_places;
pub mod kernel;
pub mod listen;
pub mod listening_user;
pub mod moment;
pub mod own_sockets;
pub mod passed;
pub mod path_risk;
pub mod places;
pub mod port_holder;
pub mod privileged_ports;
pub mod program;
pub mod remembered;
pub mod resolve;
pub mod service_state;
pub mod share;
pub mod tasks;
pub mod uptime;
pub mod watch;
pub mod watchdog;
pub mod write_stall;
