//! For tests of stores.
