//! Everything from the outside: the real program, as a process, between simulators of iMIS and Zendesk.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

mod support;

mod acme;
mod answers;
mod attacks;
mod audit;
mod balance;
mod browser;
mod circles;
mod client_application;
mod command_line;
mod configuration;
mod doctor;
mod documents;
mod explain;
mod failures;
mod guarding;
mod identities;
mod identity_attacks;
mod identity_cache;
mod faithful;
mod faults;
mod layers;
mod logs;
mod messaging;
mod methods;
mod observability;
mod patience;
mod proxy_protocol;
mod proxying;
mod recognition;
mod reload;
mod reload_attacks;
mod restarts;
mod rotation;
mod rules;
mod rules_attacks;
mod scale_out;
mod sign_in;
mod single_logout;
mod staff;
mod streaming;
mod systemd;
mod tls;
mod tokens;
mod upstreams;
mod walls;
mod websocket;
