//! Everything from the outside: the real program, as a process, between simulators of iMIS and Zendesk.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

mod support;

// The connection of a client, and what passes through to iMIS.
mod acme;
mod connection_auth;
mod connection_limits;
mod denial_of_service;
mod path_filtering;
mod proxy_protocol;
mod proxying;
mod resource_limits;
mod streaming;
mod timeouts;
mod tls;
mod transparency;
mod upstream_failures;
mod upstream_responses;
mod upstreams;
mod websocket;
mod worker_balance;

// Sign-in, sign-out and what is known of a member.
mod browser;
mod client_application;
mod concurrent_members;
mod identity_cache;
mod imis_outages;
mod messaging;
mod profile_values;
mod recognition;
mod recognition_methods;
mod redirect_loops;
mod rules;
mod secret_rotation;
mod sign_in;
mod single_logout;
mod staff;
mod state_cookie;
mod tokens;

// Operation: configuration, commands, reload and restart, what the gateway reports.
mod audit;
mod command_line;
mod configuration;
mod control_socket;
mod doctor;
mod explain;
mod file_watch;
mod logs;
mod observability;
mod reload;
mod restarts;
mod scale_out;
mod signals;
mod sync;
mod systemd;

// The source itself.
mod documentation;
mod layers;
