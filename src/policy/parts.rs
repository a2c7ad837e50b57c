//! The parts of a template: its blocks, each once, and which of them a line belongs to.

use std::collections::{BTreeMap, BTreeSet};

use super::declared::{Block, Template};

/// A block and what stands below it rarely take more lines than this.
const LONGEST_BLOCK: usize = 12;

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

/// Which block a line belongs to.
pub(super) struct Parts<'a> {
    names: BTreeSet<&'a str>,
    begins: BTreeMap<usize, &'a str>,
    used: BTreeMap<usize, &'a str>,
}

impl<'a> Parts<'a> {
    pub(super) fn of(template: &'a Template) -> Self {
        let blocks = || template.credentials.iter();
        let used = |block: &'a Block| block.uses.iter().map(move |one| (one.line, &*block.name));
        Self {
            names: blocks().map(|block| &*block.name).collect(),
            begins: blocks().map(|block| (block.line, &*block.name)).collect(),
            used: blocks().flat_map(used).collect(),
        }
    }

    /// The blocks that something which could not be read concerns: it names them, or stands in one or where one is used.
    pub(super) fn concerned(&self, message: &str, line: usize) -> BTreeSet<&'a str> {
        let words = message.split(|c: char| !c.is_alphanumeric() && c != '_');
        let mut concerned: BTreeSet<&str> = words.filter_map(|word| self.names.get(word).copied()).collect();
        let begun = self.begins.range(..=line).next_back();
        concerned
            .extend(begun.filter(|(begin, _)| **begin > 0 && line - **begin < LONGEST_BLOCK).map(|(_, name)| name));
        concerned.extend(self.used.get(&line));
        concerned
    }
}
