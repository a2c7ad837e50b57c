//! Stores for tests.

use std::path::Path;
use std::time::Duration;

use super::{Keys, Place, Store};
use crate::base::Deps;

pub(super) fn at(folder: &Path) -> Place {
    let url = format!("sqlite:{}", folder.join("countersign.db").display());
    Place { url, password: None, poll: Duration::from_millis(20) }
}

pub(super) async fn sqlite(folder: &Path) -> Store {
    Store::open(&at(folder), Keys::File(folder.join("store.key")), &Deps::system()).await.unwrap().0
}
