//! Loopback addresses for one federation, so that tests which run side by side can never meet.
//!
//! All of 127.0.0.0/8 is this host. A block is a /24 for the gateways' own addresses and a range of virtual addresses
//! for each zone. It is held by a listener on its first address for as long as the block lives, which works across
//! processes and ends with them. Within a block ports are fixed, so no port is ever guessed.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context, bail};

/// Blocks that exist; each test holds one or a few.
const BLOCKS: u8 = 255;
/// Zones that one block has virtual addresses for.
pub const MAX_ZONES: u8 = 16;
/// The port of the listener that holds a block.
const HOLD_PORT: u16 = 7999;

/// Addresses that nobody else uses until this is dropped.
#[derive(Debug)]
pub struct Block {
    number: u8,
    _held: TcpListener,
}

impl Block {
    /// Takes the first free block.
    ///
    /// # Errors
    /// When all are taken.
    pub fn take() -> anyhow::Result<Self> {
        // Processes start looking at different places, so that they seldom ask for the same one.
        let start = u8::try_from(std::process::id() % u32::from(BLOCKS)).context("a number below 255")?;
        for step in 0..BLOCKS {
            let number = (start.wrapping_add(step)) % BLOCKS;
            let address = SocketAddr::from(([127, 1, number, 1], HOLD_PORT));
            if let Ok(held) = TcpListener::bind(address) {
                return Ok(Self { number, _held: held });
            }
        }
        bail!("all {BLOCKS} blocks of loopback addresses are taken")
    }

    /// The own address of the host with this index.
    #[must_use]
    pub fn host(&self, index: u8) -> IpAddr {
        Ipv4Addr::new(127, 1, self.number, index.saturating_add(10)).into()
    }

    /// The zone's range of virtual addresses, a /22.
    #[must_use]
    pub fn virtual_range(&self, zone: u8) -> String {
        assert!(
            zone < MAX_ZONES,
            "a block has virtual addresses for {MAX_ZONES} zones"
        );
        format!(
            "127.{}.{}.0/22",
            64 + self.number / 4,
            (self.number % 4) * 64 + zone * 4
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_blocks_share_no_address() {
        let (one, two) = (Block::take().unwrap(), Block::take().unwrap());
        assert_ne!(one.host(0), two.host(0));
        assert_ne!(one.virtual_range(0), two.virtual_range(0));
        assert_ne!(one.virtual_range(0), one.virtual_range(1));
    }
}
