//! The blocks of a template, each once.

use std::collections::BTreeMap;

use super::declared::Block;

/// Blocks of one name are one block, used wherever any of them is.
pub(super) fn merged(blocks: &[Block]) -> Vec<Block> {
    let mut merged: Vec<Block> = Vec::new();
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for block in blocks {
        match places.get(&*block.name).and_then(|place| merged.get_mut(*place)) {
            Some(first) => first.uses.extend(block.uses.iter().cloned()),
            None => {
                places.insert(&block.name, merged.len());
                merged.push(block.clone());
            }
        }
    }
    merged
}
