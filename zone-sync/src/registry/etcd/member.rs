//! A member of etcd: its address, and connections that are made when they are used.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use causeway_host::{listen::is_own_address, resolve::NameResolver};
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

use super::error::EtcdError;

/// For making a connection to a member.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// A connection without traffic is asked for a sign of life this often, and has this long to give it.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
pub(super) struct EtcdMember {
    pub(super) address: Uri,
    /// Connects when it is used, and again whenever it has to.
    pub(super) channel: Channel,
    /// A connection of its own for watching: a full reading must not hold up a lease.
    pub(super) watching: Channel,
}

impl EtcdMember {
    pub(super) fn new(address: &str, resolver: &NameResolver) -> Result<Self, EtcdError> {
        let wrong = || EtcdError::Address(address.to_owned());
        let uri: Uri = address.parse().map_err(|_| wrong())?;
        if uri.scheme_str() != Some("http") || uri.port_u16().is_none() || uri.path().len() > 1 {
            return Err(wrong());
        }
        let endpoint = Endpoint::from(uri.clone())
            .connect_timeout(CONNECT_LIMIT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        let connect = || {
            let resolver = resolver.clone();
            let dial = move |member: Uri| {
                let resolver = resolver.clone();
                async move { dial(&member, &resolver).await.map(TokioIo::new) }
            };
            endpoint.connect_with_connector_lazy(tower::service_fn(dial))
        };
        Ok(Self {
            address: uri,
            channel: connect(),
            watching: connect(),
        })
    }

    /// Tells whether it is at an address. One of this host is at each of the host's addresses.
    pub(super) async fn is_at(&self, address: SocketAddr, resolver: &NameResolver) -> bool {
        if self.address.port_u16() != Some(address.port()) {
            return false;
        }
        let host = host_of(&self.address).unwrap_or_default();
        let at = match host.parse::<IpAddr>() {
            Ok(literal) => vec![literal.to_canonical()],
            // One whose name nobody knows is not there at present.
            Err(_) => {
                let found = resolver.resolve(&format!("{host}:{}", address.port())).await;
                let found = found.iter().flat_map(|found| found.iter());
                found.map(|found| found.ip().to_canonical()).collect()
            }
        };
        let ip = address.ip().to_canonical();
        let is_here = |ip: IpAddr| ip.is_loopback() || is_own_address(ip);
        at.contains(&ip) || is_here(ip) && at.into_iter().any(is_here)
    }
}

/// Host of a member's address; an IPv6 address stands in brackets there.
fn host_of(member: &Uri) -> Option<&str> {
    member.host().map(|host| host.trim_matches(['[', ']']))
}

/// Connects to a member, whose name is looked up without a runtime that waits for the answer.
pub(super) async fn dial(member: &Uri, resolver: &NameResolver) -> io::Result<TcpStream> {
    let no_host = || io::Error::from(io::ErrorKind::InvalidInput);
    let host = host_of(member).ok_or_else(no_host)?;
    let port = member.port_u16().ok_or_else(no_host)?;
    let stream = resolver.connect(host, port).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
