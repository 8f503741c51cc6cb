//! Listen addresses as people write them, and what to do when one cannot be bound.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use tokio::net::TcpListener;

/// `:8080` (all interfaces, IPv4 and IPv6), `127.0.0.1:9090` or `[::1]:9090`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ListenAddress {
    /// `None` is all interfaces.
    ip: Option<std::net::IpAddr>,
    port: u16,
}

/// Text that is not a listen address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a listen address: use \":8080\" for all interfaces, or an IP address and a \
     port as in \"127.0.0.1:8080\" or \"[::1]:8080\""
)]
pub struct AddressError {
    /// What was given.
    pub text: String,
}

/// An address that cannot be bound, with what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {advice}")]
pub struct BindError {
    /// The address as configured.
    pub address: ListenAddress,
    /// What happened and what to do.
    pub advice: &'static str,
    /// Cause.
    #[source]
    pub source: io::Error,
}

impl ListenAddress {
    /// Binds it. All interfaces means one IPv6 socket that takes IPv4 as well, or an IPv4 socket
    /// where the machine has no IPv6.
    pub(super) async fn bind(&self) -> Result<TcpListener, BindError> {
        let Some(ip) = self.ip else {
            let every = SocketAddr::from((Ipv6Addr::UNSPECIFIED, self.port));
            return match TcpListener::bind(every).await {
                Err(error) if lacks_ipv6(&error) => {
                    let every = SocketAddr::from((Ipv4Addr::UNSPECIFIED, self.port));
                    TcpListener::bind(every)
                        .await
                        .map_err(|source| self.error(source))
                }
                bound => bound.map_err(|source| self.error(source)),
            };
        };
        TcpListener::bind(SocketAddr::from((ip, self.port)))
            .await
            .map_err(|source| self.error(source))
    }

    pub(super) fn error(&self, source: io::Error) -> BindError {
        let kind = source.kind();
        let advice = if kind == ErrorKind::AddrInUse {
            "another process listens there; stop it or choose another port"
        } else if kind == ErrorKind::PermissionDenied {
            "not permitted; choose a port above 1023 or grant CAP_NET_BIND_SERVICE"
        } else if kind == ErrorKind::AddrNotAvailable {
            "this machine does not have that address; use one of its own, or only \":PORT\""
        } else {
            "the system refused; check the address and the limits of this process"
        };
        BindError {
            address: *self,
            advice,
            source,
        }
    }
}

/// Whether a bind failed because the machine has no IPv6.
fn lacks_ipv6(error: &io::Error) -> bool {
    /// `EAFNOSUPPORT` on Linux, for which the standard library has no kind.
    const ADDRESS_FAMILY_NOT_SUPPORTED: i32 = 97;
    error.kind() == ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(ADDRESS_FAMILY_NOT_SUPPORTED)
}

impl FromStr for ListenAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let refused = || AddressError {
            text: text.to_owned(),
        };
        if let Some(port) = text.strip_prefix(':') {
            // `u16::from_str` takes a sign, which is no port.
            let digits = port.bytes().all(|byte| byte.is_ascii_digit());
            let port = port.parse().ok().filter(|_| digits).ok_or_else(refused)?;
            return Ok(Self { ip: None, port });
        }
        let address: SocketAddr = text.parse().ok().ok_or_else(refused)?;
        let everywhere = address.ip() == Ipv6Addr::UNSPECIFIED;
        let ip = (!everywhere).then_some(address.ip());
        Ok(Self {
            ip,
            port: address.port(),
        })
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            Some(ip) => SocketAddr::from((ip, self.port)).fmt(f),
            None => write!(f, ":{}", self.port),
        }
    }
}
