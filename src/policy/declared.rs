//! What a template declares, in whatever language it was written.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What concerns credentials in one policy template.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Template {
    /// The name that the template gives itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its `credentials` blocks, in their order.
    pub credentials: Vec<Block>,
    /// Requests that no block authenticates.
    pub unsigned: Vec<Use>,
    /// Its parameters, which host patterns and account numbers may name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parameters: Vec<Parameter>,
    /// What could not be read. The rest was.
    pub errors: Vec<Issue>,
}

/// One `credentials` block.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Its name, without `$`: `auth_aws`.
    pub name: String,
    /// Where it begins, from 1.
    #[serde(default)]
    pub line: usize,
    /// The schemes that fit, in snake_case, as written otherwise.
    pub schemes: Vec<String>,
    /// What the credential's tags should say.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// What people are shown.
    #[serde(default)]
    pub label: Option<String>,
    /// A sentence for people.
    #[serde(default)]
    pub description: Option<String>,
    /// `$parameter`, or the number itself.
    #[serde(default)]
    pub account_number: Option<String>,
    /// Where it is used, in the order of the lines.
    #[serde(default)]
    pub uses: Vec<Use>,
}

/// One place from which requests are sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// Where it stands, from 1.
    #[serde(default)]
    pub line: usize,
    /// In capitals; `GET` where the text says none.
    pub method: String,
    /// As far as the text tells; what it does not tell stands in braces: `ec2.{region}.amazonaws.com`, `{value}`.
    pub host: String,
    /// The same; begins with `/` unless its beginning is not told. Without the query.
    pub path: String,
    /// The request goes out unencrypted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cleartext: bool,
    /// The address of its next page comes from the answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub followed: bool,
}

/// One parameter of a template.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameter {
    /// Its name, without `$`: `param_aws_account_number`.
    pub name: String,
    /// What it is unless somebody says otherwise, if that is one text or number.
    #[serde(default)]
    pub default: Option<String>,
    /// What it may be; empty for anything.
    #[serde(default)]
    pub allowed: Vec<String>,
}

/// Something that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issue {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// What is wrong, and what would be right.
    pub message: String,
    /// The block that it is about: it stands in it, or in a request that it authenticates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<String>,
}

/// What is said of a block with very many schemes.
pub(super) const TOO_MANY_SCHEMES: &str = "more than 64 schemes, and there are not that many: the rest is left out";

/// Adds a scheme that is not among the others, if that are not too many already; whether there was room for it.
pub(super) fn add_scheme(schemes: &mut Vec<String>, scheme: String) -> bool {
    let known = scheme.is_empty() || schemes.contains(&scheme);
    let room = schemes.len() < 64;
    if !known && room {
        schemes.push(scheme);
    }
    known || room
}
