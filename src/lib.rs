//! Countersign: a local HTTP proxy that signs other people's requests.
//!
//! A policy runner, a script or a pod calls an external API without holding any key; Countersign knows which credential
//! is bound to the call, obtains or computes what the API wants, injects it, forwards the request and streams the answer.
//!
//! The rooms, from the outside in; imports only look down this list (`tests/architecture.rs`).

pub mod cli;

pub mod app;

pub mod config;

pub mod inject;

pub mod api;

pub mod observe;

pub mod listen;

pub mod proxy;

pub mod policy;

pub mod route;

pub mod store;

pub mod scheme;

pub mod token;

pub mod source;

pub mod upstream;

pub mod sigv4;

pub mod base;
