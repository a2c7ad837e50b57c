//! Obtaining AWS keys: from STS, and from wherever the host has them (environment, shared files, metadata services).
//!
//! Every function does its work once: what they give is cached by the engine, not here.
//!
//! **Never speaks the metadata service's first version, never follows `source_profile` in a circle, never goes on to the
//! next source when one that is configured fails.**

mod ambient;
mod container;
mod endpoint;
mod imds;
mod keys;
mod metadata;
mod process;
mod profile;
mod proof;
mod role;
mod session;
mod shared_files;
mod sts;
mod sts_error;
#[cfg(test)]
mod testing;

pub use ambient::{Ambient, AmbientSettings};
pub use endpoint::{StsEndpoint, endpoint_for, partition_of_arn, partition_of_region, region_for};
pub use keys::{Issued, Keys};
pub use proof::caller_identity_proof;
pub use role::{DEFAULT_DURATION, Role};
pub use session::{AmbientSession, Base, ExternalIds, RoleSession, Signing, WebIdentitySession, session_keys};
pub use sts::{CallerIdentity, Sts, read_caller_identity};
pub use sts_error::{StsError, StsErrorKind};
#[cfg(test)]
pub(super) use testing::{Answer, Network, Variables, answer};
