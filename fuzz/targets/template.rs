//! Arbitrary bytes as a policy template: reading is total, every position lies within the text, and whatever is reported
//! by name stands in the text.
#![no_main]

use std::path::Path;

use countersign::policy::{Template, Use};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let template = Template::parse(bytes);
    let text = String::from_utf8_lossy(bytes);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let lines: Vec<usize> = text.split('\n').map(|line| line.chars().count()).collect();
    let is_line = |line: usize| assert!((1..=lines.len()).contains(&line), "line {line} of {}", lines.len());
    for error in &template.errors {
        is_line(error.line);
        assert!(!error.message.is_empty());
        // What is no UTF-8 has as many columns as it has bytes that begin something.
        let least = if text.contains('\u{fffd}') { bytes.len() } else { lines[error.line - 1] };
        assert!((1..=least + 1).contains(&error.column), "{error:?}");
    }
    let mut before = 0;
    for block in &template.credentials {
        is_line(block.line);
        assert!(block.line >= before, "blocks are in their order");
        before = block.line;
        assert!(!block.name.is_empty() && text.contains(&block.name), "{:?}", block.name);
        let others = template.credentials.iter().filter(|other| other.name == block.name).count();
        assert_eq!(others, 1, "{:?} twice", block.name);
        for scheme in &block.schemes {
            assert!(!scheme.is_empty() && !scheme.contains('-') && *scheme == scheme.to_ascii_lowercase());
        }
        block.tags.keys().for_each(|key| assert!(!key.is_empty()));
        assert!(block.account_number.as_ref().is_none_or(|number| !number.is_empty()));
        in_order(&block.uses);
        block.uses.iter().for_each(|one| is_line(one.line));
    }
    in_order(&template.unsigned);
    template.unsigned.iter().for_each(|one| is_line(one.line));

    // What was read means the same to whoever reads the report.
    let report = serde_json::to_string(&template).expect("a report");
    assert_eq!(serde_json::from_str::<Template>(&report).expect("the same report"), template);
    // As a declaration the same bytes are something else, and read as well.
    Template::read(Path::new("x.yaml"), bytes);
});

fn in_order(uses: &[Use]) {
    assert!(uses.windows(2).all(|pair| pair[0].line <= pair[1].line), "{uses:?}");
    for one in uses {
        assert!(!one.host.is_empty() && one.path.starts_with(['/', '{']), "{one:?}");
    }
}
