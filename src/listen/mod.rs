//! The ways in: bytes come in, one type goes out: an [`crate::proxy::Inbound`] with one destination and a proven caller.
//!
//! **Never believes a claim that the channel does not prove, never lets two names for one destination pass, never tunnels
//! a host blind that has a credential.**

mod admin;
pub mod ca;
mod client_hello;
mod door;
pub mod environment;
mod forward;
pub mod framing;
mod handed;
mod http;
mod identify;
mod intercept;
mod kernel;
mod original;
mod reverse;
mod rewound;
mod serve;
pub mod settings;
mod shared;
mod sniff;
mod socket;
mod transparent;
mod vet;

pub use admin::AdminTls;
pub use door::{Door, Route, tls};
pub use handed::HandedOver;
pub use serve::Listener;
pub use settings::{Address, Settings};
pub use shared::{ConnectionLimits, Shared};
pub use socket::Bound;
pub use vet::Patience;
