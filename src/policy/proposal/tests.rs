//! Tests of what a run may use.
