//! Connection limits: in total, and per client address.
//!
//! All workers share the counters. A connection updates them when it begins and when it ends; requests do not.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::Limits;

#[derive(Debug)]
pub(crate) struct Admission {
    open: AtomicUsize,
    counts: Mutex<Counts>,
}

#[derive(Debug)]
struct Counts {
    limits: Limits,
    by_address: HashMap<IpAddr, usize>,
}

/// Counts one connection against the limits until it is dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    admission: Arc<Admission>,
    /// The address it counts for. None: the limit per address does not apply.
    address: Option<IpAddr>,
}

/// Which limit has been reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    All,
    Address,
}

impl Full {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::All => "limits.connections",
            Self::Address => "limits.connections_per_address",
        }
    }
}

impl Admission {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        let counts = Counts { limits, by_address: HashMap::new() };
        Arc::new(Self { open: AtomicUsize::new(0), counts: Mutex::new(counts) })
    }

    /// The number of open connections.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Changes the limits. Open connections stay open.
    pub(crate) fn limit(&self, limits: Limits) {
        self.counts().limits = limits;
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits a connection. `trusted`: it comes from a trusted proxy, which many clients share. `leaving`: the number
    /// of connections that are being evicted.
    pub(crate) fn admit(
        self: &Arc<Self>,
        peer: IpAddr,
        trusted: bool,
        leaving: usize,
    ) -> Result<Admitted, Full> {
        let address = (!trusted).then(|| counted(peer));
        let mut counts = self.counts();
        let Counts { limits, by_address } = &mut *counts;
        let count = address.map(|address| by_address.get(&address).copied().unwrap_or(0));
        // The limit of the address first: no connection is closed for an address that has reached it.
        if count.is_some_and(|count| count >= limits.connections_per_address) {
            return Err(Full::Address);
        }
        if self.open.load(Ordering::Relaxed) >= limits.connections + leaving {
            return Err(Full::All);
        }
        if let Some(address) = address {
            *by_address.entry(address).or_insert(0) += 1;
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        Ok(Admitted { admission: self.clone(), address })
    }
}

impl Admitted {
    /// Counts the connection of a trusted proxy for `client`, which the PROXY header named.
    pub(crate) fn belongs_to(&mut self, client: IpAddr) -> Result<(), Full> {
        debug_assert!(self.address.is_none(), "only a connection of a trusted proxy counts for no address");
        let address = counted(client);
        let mut counts = self.admission.counts();
        let most = counts.limits.connections_per_address;
        let count = counts.by_address.entry(address).or_insert(0);
        if *count >= most {
            return Err(Full::Address);
        }
        *count += 1;
        self.address = Some(address);
        Ok(())
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.admission.open.fetch_sub(1, Ordering::Relaxed);
        let Some(address) = self.address else { return };
        let by_address = &mut self.admission.counts().by_address;
        if let Some(count) = by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&address);
            }
        }
    }
}

/// The address that a connection counts for: for IPv6 the /64 network, which one household or office owns.
fn counted(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V4(_) => peer,
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(connections: usize, connections_per_address: usize) -> Arc<Admission> {
        Admission::new(Limits { connections, connections_per_address, min_body_rate: 0 })
    }

    #[test]
    fn connections_count_until_they_end() {
        let admission = admission(3, 2);
        let [one, two] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
        let first = admission.admit(one, false, 0).unwrap();
        let _second = admission.admit(one, false, 0).unwrap();
        assert_eq!(admission.admit(one, false, 0).unwrap_err(), Full::Address);
        let _third = admission.admit(two, false, 0).unwrap();
        assert_eq!(admission.admit(two, false, 0).unwrap_err(), Full::All);
        assert_eq!(admission.admit(one, false, 9).unwrap_err(), Full::Address, "evictions do not help");
        let fourth = admission.admit(two, false, 1).unwrap();
        assert_eq!(
            admission.admit("192.0.2.3".parse().unwrap(), false, 1).unwrap_err(),
            Full::All,
            "each eviction makes room for one connection"
        );
        drop((first, fourth));
        admission.admit(one, false, 0).unwrap();
        assert_eq!(admission.counts().by_address.len(), 2);
    }

    #[test]
    fn the_limit_per_address_does_not_apply_to_a_trusted_proxy() {
        let admission = admission(10, 1);
        let proxy = "10.0.0.1".parse().unwrap();
        let all: Vec<_> = (0..10).map(|_| admission.admit(proxy, true, 0).unwrap()).collect();
        assert_eq!(admission.admit(proxy, true, 0).unwrap_err(), Full::All);
        drop(all);
        assert_eq!(admission.open.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn ipv6_addresses_count_by_64_bit_network() {
        let admission = admission(10, 1);
        let _first = admission.admit("2001:db8:1:2:3:4:5:6".parse().unwrap(), false, 0).unwrap();
        assert!(admission.admit("2001:db8:1:2:ffff::1".parse().unwrap(), false, 0).is_err());
        assert!(admission.admit("2001:db8:1:3::1".parse().unwrap(), false, 0).is_ok());
    }
}
