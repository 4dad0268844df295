//! How many sign-ins one network and one person may begin: enough for an office that comes to work, too few for whoever tries things out.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::config::SignInLimits;

/// Every so many visits all keys are looked through for those that are as good as new.
const LOOK_THROUGH: u32 = 4096;

/// See the module.
pub(crate) struct RateLimits {
    pub(crate) limits: SignInLimits,
    networks: DefaultKeyedRateLimiter<IpAddr>,
    people: DefaultKeyedRateLimiter<String>,
    visits: AtomicU32,
}

/// Who has had enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RateLimited {
    Network,
    Person,
}

impl RateLimited {
    /// The key of the configuration.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Network => "limits.sign_ins_per_network",
            Self::Person => "limits.sign_ins_per_person",
        }
    }
}

impl RateLimits {
    pub(crate) fn new(limits: SignInLimits) -> Self {
        let quota = |a_minute: NonZeroU32| Quota::per_minute(a_minute);
        Self {
            limits,
            networks: RateLimiter::keyed(quota(limits.per_network)),
            people: RateLimiter::keyed(quota(limits.per_person)),
            visits: AtomicU32::new(0),
        }
    }

    /// Another request from this address.
    pub(crate) fn check_network(&self, client: IpAddr) -> Result<(), RateLimited> {
        if self.visits.fetch_add(1, Ordering::Relaxed) % LOOK_THROUGH == LOOK_THROUGH - 1 {
            self.networks.retain_recent();
            self.people.retain_recent();
        }
        self.networks.check_key(&network_of(client)).map_err(|_| RateLimited::Network)
    }

    /// Another sign-in of this person. `site` tells people of one id apart.
    pub(crate) fn check_person(&self, site: &str, imis_id: &str) -> Result<(), RateLimited> {
        self.people.check_key(&format!("{site} {imis_id}")).map_err(|_| RateLimited::Person)
    }
}

/// A household or office has a /64 of IPv6 at its disposal.
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

    #[test]
    fn each_network_and_each_person_has_so_many_a_minute() {
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
