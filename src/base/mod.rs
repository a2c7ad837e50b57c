//! The words that all rooms share: destinations, secrets, mutations, refusals, bodies and the clock.
//!
//! **Never does input or output of its own** (the system clock and the process environment in [`deps`] excepted),
//! **never knows a scheme, a listener or a configuration file.**

pub mod body;
pub mod deps;
pub mod destination;
pub mod duration;
pub mod error;
pub mod mutations;
pub mod nets;
pub mod reference;
pub mod request;
pub mod secret;

pub use body::Body;
pub use deps::{Clock, Deps, Environment};
pub use destination::{Destination, Host, Protocol};
pub use error::{Code, Fault, Refusal};
pub use mutations::Mutations;
pub use reference::{Public, SecretField, SecretRef, Secrets, Unavailable};
pub use request::{BodyNeed, RequestView};
pub use secret::Secret;
