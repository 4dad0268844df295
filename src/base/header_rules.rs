//! Headers that servers trust because proxies set them: the client's address, the original URL, the authenticated user.
//! A client can forge them, so the gateway removes those of clients.
//!
//! A list of complete names would always miss some, so names match by prefix or suffix, in any spelling: case is
//! ignored, and any character that is neither a letter nor a digit matches `-`, as where headers become variables.
//! `docs/hardening.md` lists them. The configuration can add more (`upstream.headers.remove`) and make exceptions
//! (`keep`).

/// Prefixes of names. In lower case, sorted by their first letter.
const BEGINNINGS: [&str; 102] = [
    "akamai-",
    "auth-",
    "base-url",
    "cdn-client",
    "cf-",
    "client-cert",
    "client-ip",
    "client-verif",
    "cluster-",
    "disguised-host",
    "fastly-",
    "fly-",
    "forwarded",
    "front-end-",
    "http-",
    "http2-settings",
    "iv-",
    "logon-user",
    "mellon-",
    "oam-",
    "oidc-",
    "original-",
    "proxy",
    "real-",
    "remote-",
    "rewrite-",
    "shib-",
    "sm-",
    "ssl-",
    "tailscale-",
    "true-",
    "unencoded-url",
    "was-default-",
    "webauth-",
    "wl-proxy-",
    "x-accel-",
    "x-akamai-",
    "x-amzn-oidc-",
    "x-anonymous-",
    "x-appengine-",
    "x-arr-",
    "x-aspnet",
    "x-auth-",
    "x-authen",
    "x-azure-",
    "x-backend-",
    "x-bluecoat-",
    "x-client",
    "x-cluster-",
    "x-coming-from",
    "x-consumer-",
    "x-credential-",
    "x-custom-ip-",
    "x-envoy-",
    "x-forward",
    "x-gateway-",
    "x-goog-authenticated-",
    "x-goog-iap-",
    "x-haproxy-",
    "x-host",
    "x-http-host",
    "x-http-method",
    "x-https",
    "x-iisnode-",
    "x-incap-",
    "x-internal-",
    "x-invoke-",
    "x-ip-",
    "x-lb-",
    "x-logon-",
    "x-method-",
    "x-middleware-",
    "x-ms-client-principal",
    "x-ms-proxy",
    "x-ms-token-",
    "x-nginx-",
    "x-oauth-",
    "x-oidc-",
    "x-origin-",
    "x-original",
    "x-originating-",
    "x-override-",
    "x-pomerium-",
    "x-proxy",
    "x-real-",
    "x-remote-",
    "x-rewrite-",
    "x-saml-",
    "x-scheme",
    "x-sendfile",
    "x-server-name",
    "x-ssl-",
    "x-sucuri-",
    "x-tls-",
    "x-true-",
    "x-trusted-",
    "x-url-scheme",
    "x-user-",
    "x-vouch-",
    "x-waws-",
    "x-webauth-",
    "z-forwarded-",
];

/// Suffixes of names.
const ENDINGS: [&str; 13] = [
    "-ip",
    "-ipv4",
    "-ipv6",
    "clientip",
    "-addr",
    "-client-cert",
    "-forwarded-for",
    "-forwarded-host",
    "-forwarded-proto",
    "-method-override",
    "-remote-user",
    "-authenticated-user",
    "-iap-jwt-assertion",
];

/// Complete names.
const NAMES: [&str; 14] = [
    "aspfiltersessionid",
    "https",
    "user-id",
    "x-groups",
    "x-http-destinationurl",
    "x-ip",
    "x-proto",
    "x-protocol",
    "x-request-id",
    "x-roles",
    "x-uri",
    "x-user",
    "x-userid",
    "x-username",
];

/// Names that match a prefix although servers do not trust them.
const HARMLESS: [&str; 1] = ["x-user-agent"];

/// Headers that determine the meaning of a message. A server could read another spelling as the header itself.
const DECISIVE: [&str; 11] = [
    "authorization",
    "cookie",
    "host",
    "content-length",
    "content-type",
    "transfer-encoding",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "set-cookie",
    "max-forwards",
];

/// The configured additions and exceptions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) remove: Vec<Pattern>,
    /// Complete names, in lower case.
    pub(crate) keep: Vec<String>,
}

/// `Name`, `Name-*` or `*-Name`, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pattern {
    Name(String),
    Beginning(String),
    Ending(String),
}

impl Pattern {
    /// None: the text is not a valid pattern.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let normalized = |name: &str| {
            let is_valid =
                name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
            (is_valid && !name.is_empty()).then(|| name.to_ascii_lowercase().replace('_', "-"))
        };
        match (text.strip_prefix('*'), text.strip_suffix('*')) {
            (None, None) => normalized(text).map(Self::Name),
            (None, Some(beginning)) => normalized(beginning).map(Self::Beginning),
            (Some(ending), None) => normalized(ending).map(Self::Ending),
            (Some(_), Some(_)) => None,
        }
    }

    pub(crate) fn matches(&self, name: &str) -> bool {
        match self {
            Self::Name(whole) => is(name, whole),
            Self::Beginning(beginning) => begins_with(name, beginning),
            Self::Ending(ending) => ends_with(name, ending),
        }
    }
}

impl Rules {
    /// Whether a client's header with this name is removed.
    pub(crate) fn forbid(&self, name: &str) -> bool {
        if self.remove.is_empty() && self.keep.is_empty() {
            return is_untrusted(name);
        }
        let trimmed = trim_punctuation(name);
        self.remove.iter().any(|pattern| pattern.matches(name) || pattern.matches(trimmed))
            || (is_untrusted(name) && !self.keep.iter().any(|kept| is(name, kept)))
    }
}

/// Whether the gateway sets a header with this name or the same meaning. Exceptions for these are not allowed.
pub(crate) fn is_ours_alone(name: &str) -> bool {
    ["forwarded", "x-forward", "x-real-", "x-original", "x-rewrite-"].iter().any(|own| begins_with(name, own))
        || is(name, "x-request-id")
}

/// Whether a server could read this name as a header that determines the meaning of a message.
pub(crate) fn is_decisive(name: &str) -> bool {
    DECISIVE.iter().any(|whole| is(name, whole))
}

/// Removes punctuation at both ends of a name, which some servers ignore: `_Host`, `Host'`.
fn trim_punctuation(name: &str) -> &str {
    name.trim_matches(|c: char| !c.is_ascii_alphanumeric())
}

fn is_untrusted(name: &str) -> bool {
    let length = name.len();
    let name = trim_punctuation(name);
    let bytes = name.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    // The first and the last letter exclude most prefixes and suffixes.
    let (first, last) = (first.to_ascii_lowercase(), last.to_ascii_lowercase());
    let is_unusual =
        length > name.len() || bytes.iter().any(|byte| !byte.is_ascii_alphanumeric() && *byte != b'-');
    let matches = BEGINNINGS
        .iter()
        .skip_while(|beginning| beginning.as_bytes()[0] < first)
        .take_while(|beginning| beginning.as_bytes()[0] == first)
        .any(|beginning| begins_with(name, beginning))
        || ENDINGS
            .iter()
            .filter(|ending| ending.as_bytes()[ending.len() - 1] == last)
            .any(|ending| ends_with(name, ending));
    (matches && !HARMLESS.iter().any(|harmless| is(name, harmless)))
        || NAMES.iter().any(|whole| is(name, whole))
        || (is_unusual && is_decisive(name))
}

fn folds_to(byte: u8, wanted: u8) -> bool {
    byte.to_ascii_lowercase() == wanted || (wanted == b'-' && !byte.is_ascii_alphanumeric())
}

fn is(name: &str, whole: &str) -> bool {
    name.len() == whole.len() && begins_with(name, whole)
}

fn begins_with(name: &str, beginning: &str) -> bool {
    name.len() >= beginning.len()
        && name.bytes().zip(beginning.bytes()).all(|(byte, wanted)| folds_to(byte, wanted))
}

fn ends_with(name: &str, ending: &str) -> bool {
    name.len() >= ending.len()
        && name.bytes().rev().zip(ending.bytes().rev()).all(|(byte, wanted)| folds_to(byte, wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_to_remove_are_found_with_punctuation_at_the_ends() {
        let remove = vec![Pattern::parse("X-Member-Id").unwrap(), Pattern::parse("X-Contoso-*").unwrap()];
        let rules = Rules { remove, keep: Vec::new() };
        for name in ["X-Member-Id", "X_Member_Id", "_X-Member-Id", "X-Member-Id'", "_X-Contoso-User"] {
            assert!(rules.forbid(name), "{name}");
        }
        assert!(!rules.forbid("X-Member-Ids"));
    }

    #[test]
    fn the_lists_are_sorted_and_in_lower_case() {
        assert!(BEGINNINGS.is_sorted_by_key(|beginning| beginning.as_bytes()[0]));
        let lists = BEGINNINGS.iter().chain(&ENDINGS).chain(&NAMES).chain(&DECISIVE);
        for part in lists {
            assert!(
                part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            );
        }
    }

    #[test]
    fn headers_that_servers_trust_from_proxies_are_removed() {
        // As documented by web servers, frameworks, load balancers, CDNs and sign-on products.
        let names = "Forwarded Forwarded-For Forwarded-Host X-Forwarded X-Forwarded-For X-Forwarded-Host X-Forwarded-Proto \
            X-Forwarded-Scheme X-Forwarded-Port X-Forwarded-Server X-Forwarded-Prefix X-Forwarded-Path X-Forwarded-Ssl \
            X-Forwarded-By X-Forwarded-User X-Forwarded-Email X-Forwarded-Groups X-Forwarded-Client-Cert X-Forward-For \
            X-Forwarder-For X-Real-IP X-Client-IP X-Client X-ClientIP X-Client-Cert X-Cluster-Client-IP Cluster-Client-IP \
            Client-IP Client-Cert True-Client-IP True-IP X-True-Client-IP CF-Connecting-IP CF-Connecting-IPv6 \
            CF-Access-Authenticated-User-Email CF-Access-Jwt-Assertion CF-IPCountry Fastly-Client-IP Fastly-SSL \
            X-Azure-ClientIP X-Azure-SocketIP X-Azure-FDID X-Appengine-User-IP X-Appengine-Remote-Addr Fly-Client-IP \
            DO-Connecting-IP X-Envoy-External-Address X-ProxyUser-IP X-Remote-IP X-Remote-Addr X-Remote-User \
            X-Originating-IP X-Source-IP X-From-IP X-IP Proxy-Client-IP WL-Proxy-Client-IP WL-Proxy-SSL Z-Forwarded-For \
            HTTP-Client-IP HTTP_X_FORWARDED_FOR X-Host X-Hostname X-HTTP-Host-Override X-HTTP-Method-Override \
            X-HTTP-Method X-Method-Override Base-URL Front-End-Https X-Url-Scheme X-Scheme X-Proto X-HTTPS HTTPS X-ARR-SSL \
            X-ARR-ClientCert X-ARR-LOG-ID X-SSL-Client-DN SSL-Client-Verify X-MS-Client-Principal X-MS-Client-Principal-Name \
            X-MS-Token-AAD-Id-Token X-WAWS-Unencoded-URL Disguised-Host Was-Default-Hostname X-Original-URL X-Original-URI \
            X-Original-Host X-Original-Method X-Original-Remote-Addr X-Rewrite-URL Unencoded-URL X-Custom-IP-Authorization \
            X-Authenticated-User X-Authenticated-Groups X-User X-User-Id X-User-Principal-Name X-Logon-User X-Remote-Groups X-WebAuth-User Remote-User \
            Remote-Groups Remote-Addr X-Auth-Request-User X-Auth-User X-Auth-Token Auth-User X-Iisnode-Auth_User \
            X-Goog-Authenticated-User-Email X-Goog-IAP-JWT-Assertion X-Amzn-Oidc-Identity Tailscale-User-Login X-Vouch-User \
            X-Pomerium-Jwt-Assertion X-Authentik-Username OIDC_CLAIM_email Mellon_NameID Shib-Identity-Provider SM_USER \
            iv-user OAM_REMOTE_USER X-Consumer-Username X-Credential-Identifier X-Anonymous-Consumer Akamai-Origin-Hop \
            X-Sucuri-ClientIP Incap-Client-IP X-Proxy-Remote-User Proxy X-Accel-Mapping X-Sendfile-Type \
            X-Middleware-Subrequest X-Request-Id X-BlueCoat-Via X-Sendfile X-HTTP-DestinationURL AspFilterSessionId \
            X-AspNet-Version X-AspNetMvc-Version";
        for name in names.split_whitespace() {
            assert!(is_untrusted(name), "{name}");
            assert!(is_untrusted(&name.to_ascii_uppercase().replace('-', "_")), "{name}");
            assert!(is_untrusted(&name.to_ascii_lowercase().replace('-', ".")), "{name}");
        }
        for name in [
            "Content_Length",
            "transfer_encoding",
            "Transfer.Encoding",
            "KEEP_ALIVE",
            "HTTP2-Settings",
            "_Transfer-Encoding",
            "Transfer-Encoding'",
            "'Host_",
            "_Cookie",
            "Authorization~",
            "__X-Forwarded-For",
            "X-Real-IP!",
        ] {
            assert!(is_untrusted(name), "{name}");
        }
    }

    #[test]
    fn headers_of_browsers_and_iis_applications_are_kept() {
        let names = "Host Accept Accept-Charset Accept-Encoding Accept-Language Access-Control-Request-Method \
            Access-Control-Request-Headers Authorization Cache-Control Content-Encoding Content-Disposition Content-Language \
            Content-Length Content-Type Cookie Date DNT Destination Depth Expect From If-Match If-Modified-Since \
            If-None-Match If-Range If-Unmodified-Since Lock-Token Max-Forwards Origin Overwrite Pragma Priority Range Referer \
            RequestVerificationToken Request-Id Request-Context Sec-CH-UA Sec-Fetch-Site Sec-WebSocket-Key SOAPAction Timeout \
            traceparent tracestate Translate Upgrade-Insecure-Requests User-Agent Via Warning X-Requested-With \
            X-MicrosoftAjax X-NoRefreshSession X-CSRF-Token X-XSRF-TOKEN X-RequestVerificationToken X-Api-Key X-Correlation-Id \
            X-Prototype-Version X-PINGOTHER X-Upload-Content-Length X-File-Name X-Ms-Request-Id X-Moz X-Purpose \
            X-Content-Type-Options X-Vermeer-Content-Type X-Office-Version X-UA-Compatible X-User-Agent X-Zip \
            Save-Data Service-Worker Ping-From Ping-To Early-Data Clip Membership";
        for name in names.split_whitespace() {
            assert!(!is_untrusted(name), "{name}");
            assert!(!is_untrusted(&name.to_ascii_lowercase()), "{name}");
        }
    }

    #[test]
    fn the_configuration_adds_names_and_exceptions() {
        let rules = Rules {
            remove: ["X-Acme-*", "*-verified-by", "X_Staff"]
                .iter()
                .filter_map(|text| Pattern::parse(text))
                .collect(),
            keep: vec!["x-http-method-override".to_owned()],
        };
        for name in
            ["x-acme-user", "X_ACME_role", "x-mail-verified-by", "x-staff", "X-Staff", "X-HTTP-Method"]
        {
            assert!(rules.forbid(name), "{name}");
        }
        for name in ["X-HTTP-Method-Override", "x_http_method_override", "x-acme", "x-staffed"] {
            assert!(!rules.forbid(name), "{name}");
        }
        for wrong in ["", "*", "*-x-*", "x y", "x:*", "x-*-y"] {
            assert_eq!(Pattern::parse(wrong), None, "{wrong}");
        }
    }
}
