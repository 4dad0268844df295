//! Rate limits for sign-ins, for each client network and each person.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::config::SignInLimits;

/// Requests between two removals of limiters that are full again.
const CLEANUP_INTERVAL: u32 = 4096;

/// The limiters that all sites share.
pub(crate) struct RateLimits {
    pub(crate) limits: SignInLimits,
    networks: DefaultKeyedRateLimiter<IpAddr>,
    people: DefaultKeyedRateLimiter<String>,
    requests: AtomicU32,
}

/// The limit that was exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("rate limit exceeded: {}", self.name())]
pub(crate) enum RateLimited {
    Network,
    Person,
}

impl RateLimited {
    /// The configuration key of the limit.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Network => "limits.sign_ins_per_network",
            Self::Person => "limits.sign_ins_per_person",
        }
    }
}

impl RateLimits {
    pub(crate) fn new(limits: SignInLimits) -> Self {
        Self {
            limits,
            networks: RateLimiter::keyed(Quota::per_minute(limits.per_network)),
            people: RateLimiter::keyed(Quota::per_minute(limits.per_person)),
            requests: AtomicU32::new(0),
        }
    }

    /// Counts a request of this client's network.
    pub(crate) fn check_network(&self, client: IpAddr) -> Result<(), RateLimited> {
        if self.requests.fetch_add(1, Ordering::Relaxed) % CLEANUP_INTERVAL == CLEANUP_INTERVAL - 1 {
            self.networks.retain_recent();
            self.people.retain_recent();
        }
        self.networks.check_key(&network_of(client)).map_err(|_| RateLimited::Network)
    }

    /// Counts a sign-in of this person. The iMIS of each `site` has its own ids.
    pub(crate) fn check_person(&self, site: &str, imis_id: &str) -> Result<(), RateLimited> {
        self.people.check_key(&format!("{site} {imis_id}")).map_err(|_| RateLimited::Person)
    }
}

/// The network of a client: a single IPv4 address, or an IPv6 /64, which one household or office has.
fn network_of(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    #[test]
    fn networks_and_persons_have_separate_limits() {
        let two = NonZeroU32::new(2).unwrap();
        let rates = RateLimits::new(SignInLimits { per_network: two, per_person: two });
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let one = address("2001:db8::1");
        assert_eq!([rates.check_network(one), rates.check_network(address("2001:db8::2"))], [Ok(()), Ok(())]);
        assert_eq!(rates.check_network(address("2001:db8::3")), Err(RateLimited::Network), "the same /64");
        assert_eq!(rates.check_network(address("2001:db8:0:1::1")), Ok(()));
        assert_eq!(
            [rates.check_person("a", "7"), rates.check_person("a", "7"), rates.check_person("a", "7")],
            [Ok(()), Ok(()), Err(RateLimited::Person)]
        );
        assert_eq!([rates.check_person("a", "8"), rates.check_person("b", "7")], [Ok(()), Ok(())]);
    }
}
