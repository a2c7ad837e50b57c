//! The words that all rooms share: destinations, secrets, mutations, refusals, bodies and the clock.
//!
//! **Never does input or output of its own** (the system clock and the process environment in [`deps`] excepted),
//! **never knows a scheme, a listener or a configuration file.**

pub mod audit;
pub mod authorizer;
pub mod body;
pub mod deps;
pub mod destination;
pub mod duration;
pub mod error;
pub mod failpoint;
pub mod http_client;
pub mod meter;
pub mod mutations;
pub mod nets;
pub mod reference;
pub mod request;
pub mod secret;
pub mod signer;
pub mod text;
pub mod trace;
pub mod voucher;

pub use audit::{AuditEvent, AuditSink, AuditUnavailable, NoAudit};
pub use authorizer::{AnswerView, Authorized, Authorizer, Challenge, Challenged, Holds, Prepared, Verdict};
pub use body::Body;
pub use deps::{Clock, Deps, Environment, Random, Sleep, SystemClock};
pub use destination::{Destination, Host, Protocol};
pub use error::{Code, Fault, Refusal};
pub use http_client::{BoxFuture, CallError, ClientOptions, HttpClient, HttpClients};
pub use mutations::Mutations;
pub use reference::{Lifetime, Public, SecretField, SecretRef, Secrets, StoreRef, Text, Unavailable};
pub use request::{BodyNeed, Narrowing, RequestView};
pub use secret::Secret;
pub use signer::{RequestSigner, SignedRequest};
pub use trace::{ActiveSpan, Span, SpanContext, SpanKind, SpanSink, Tracer, Tracing};
pub use voucher::{NotVouched, Vouched, Voucher};
