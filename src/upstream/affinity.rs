//! Affinity: the requests of one session go to the same server.

use crate::config::Affinity;
use crate::upstream::servers::{Servers, Session, State};

/// The affinity cookie of the gateway.
const COOKIE: &str = "__Host-imis-gateway-server";

impl Servers {
    /// The server that the session of a request is on. `fields`: the headers of the request.
    pub(crate) fn session<'a>(
        &self,
        mut fields: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) -> Option<Session> {
        let affinity = self.affinity.as_ref()?;
        fields.find_map(|(name, value)| {
            if !name.eq_ignore_ascii_case("cookie") {
                return None;
            }
            value.split(|byte| *byte == b';').find_map(|cookie| self.session_of(affinity, cookie))
        })
    }

    fn session_of(&self, affinity: &Affinity, cookie: &[u8]) -> Option<Session> {
        let (name, value) = name_and_value(cookie)?;
        match affinity {
            Affinity::Cookie if name == COOKIE.as_bytes() => {
                let key_of =
                    |state: &State| state.cookie_values.iter().position(|own| own.as_bytes() == value);
                let mut all = self.all.iter().enumerate();
                let (index, key) = all.find_map(|(index, state)| Some((index, key_of(state)?)))?;
                Some(Session { index, cookie: None, is_outdated: key > 0 })
            }
            Affinity::Learned(names) if is_named(name, names) => {
                let sessions = self.sessions.as_ref()?;
                let cookie = sessions.hash(name, value);
                let server = sessions.server_of(&cookie)?;
                let index = self.all.iter().position(|state| state.server == server)?;
                Some(Session { index, cookie: Some(cookie), is_outdated: false })
            }
            Affinity::Cookie | Affinity::Learned(_) => None,
        }
    }

    /// Remembers that a session is on the server `index`, which has answered its request. Returns the affinity cookie
    /// if it must be set. `fields`: the headers of the response.
    pub(crate) fn set_affinity<'a>(
        &self,
        session: Option<&Session>,
        index: usize,
        fields: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) -> Option<String> {
        let State { server, cookie_values, .. } = &self.all[index];
        match self.affinity.as_ref()? {
            Affinity::Cookie => {
                if session.is_some_and(|session| session.index == index && !session.is_outdated) {
                    return None;
                }
                let value = cookie_values.first()?;
                Some(format!("{COOKIE}={value}; Path=/; Secure; HttpOnly; SameSite=Lax"))
            }
            Affinity::Learned(names) => {
                let sessions = self.sessions.as_ref()?;
                if let Some(Session { index: previous, cookie: Some(cookie), .. }) = session
                    && *previous != index
                {
                    // Its server was not available, so the session moves to this one.
                    sessions.remember(*cookie, server);
                }
                for (_, value) in fields.filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie")) {
                    let cookie = value.split(|byte| *byte == b';').next().unwrap_or_default();
                    if let Some((name, value)) = name_and_value(cookie)
                        && is_named(name, names)
                    {
                        sessions.remember(sessions.hash(name, value), server);
                    }
                }
                None
            }
        }
    }
}

fn name_and_value(cookie: &[u8]) -> Option<(&[u8], &[u8])> {
    let cookie = cookie.trim_ascii();
    let equals = cookie.iter().position(|byte| *byte == b'=')?;
    Some((&cookie[..equals], &cookie[equals + 1..]))
}

fn is_named(name: &[u8], names: &[String]) -> bool {
    names.iter().any(|own| own.as_bytes().eq_ignore_ascii_case(name))
}
