//! The `filter` of lists, in cred/v2's grammar: `(id co 'azure-' and scheme eq 'oauth2') or tags.provider eq 'aws'`.

use std::time::SystemTime;

use super::credential::Credential;
use super::error::ApiError;

/// Longer expressions are not written by people.
const LONGEST: usize = 4096;
/// Deeper parentheses neither.
const DEEPEST: usize = 32;

/// A filter, read and checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter(Node);

#[derive(Debug, Clone, PartialEq)]
enum Node {
    And(Vec<Node>),
    Or(Vec<Node>),
    Text { field: Field, operator: Operator, value: String },
    Time { created: bool, operator: Operator, value: SystemTime },
}

#[derive(Debug, Clone, PartialEq)]
enum Field {
    Id,
    Name,
    Scheme,
    Tag(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Co,
    Eq,
    Ne,
    Le,
    Lt,
    Ge,
    Gt,
}

impl Filter {
    /// Reads an expression.
    ///
    /// # Errors
    /// `bad_request` with the place, counted in characters from 1, and what may stand there.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        if text.len() > LONGEST {
            return Err(ApiError::bad_request(format!("filter: longer than {LONGEST} bytes")));
        }
        let mut parser = Parser { tokens: tokens(text)?, next: 0, end: text.chars().count() + 1 };
        let node = parser.or(0)?;
        match parser.peek() {
            None => Ok(Self(node)),
            Some((at, _)) => Err(wrong(*at, "`and`, `or` or the end is expected")),
        }
    }

    /// Whether it names a credential.
    pub fn matches(&self, credential: &Credential) -> bool {
        self.0.matches(credential)
    }
}

impl Node {
    fn matches(&self, credential: &Credential) -> bool {
        match self {
            Self::And(nodes) => nodes.iter().all(|node| node.matches(credential)),
            Self::Or(nodes) => nodes.iter().any(|node| node.matches(credential)),
            Self::Text { field, operator, value } => {
                let have = match field {
                    Field::Id => Some(credential.id.as_str()),
                    Field::Name => Some(credential.name.as_str()),
                    Field::Scheme => Some(credential.scheme.as_str()),
                    Field::Tag(key) => credential.tags.get(key).map(String::as_str),
                };
                match operator {
                    Operator::Co => have.is_some_and(|have| have.contains(value.as_str())),
                    Operator::Ne => have != Some(value),
                    _ => have == Some(value),
                }
            }
            Self::Time { created, operator, value } => {
                let change = if *created { &credential.created } else { &credential.updated };
                change.as_ref().is_some_and(|change| match operator {
                    Operator::Le => change.at <= *value,
                    Operator::Lt => change.at < *value,
                    Operator::Ge => change.at >= *value,
                    Operator::Gt => change.at > *value,
                    _ => change.at == *value,
                })
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Open,
    Close,
    Word(String),
    Quoted(String),
}

fn wrong(at: usize, what: &str) -> ApiError {
    ApiError::bad_request(format!("filter: at character {at}: {what}"))
}

fn tokens(text: &str) -> Result<Vec<(usize, Token)>, ApiError> {
    let mut found = Vec::new();
    let mut chars = text.chars().enumerate().map(|(index, c)| (index + 1, c)).peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            c if c.is_whitespace() => {}
            '(' => found.push((at, Token::Open)),
            ')' => found.push((at, Token::Close)),
            '\'' => {
                let mut value = String::new();
                loop {
                    match chars.next() {
                        // Two quotes are one in the value, and so is one after a backslash.
                        Some((_, '\'')) if chars.peek().is_some_and(|(_, c)| *c == '\'') => {
                            chars.next();
                            value.push('\'');
                        }
                        Some((_, '\\')) if chars.peek().is_some_and(|(_, c)| matches!(c, '\'' | '\\')) => {
                            value.extend(chars.next().map(|(_, c)| c));
                        }
                        Some((_, '\'')) => break,
                        Some((_, c)) => value.push(c),
                        None => return Err(wrong(at, "this quote is not closed")),
                    }
                }
                found.push((at, Token::Quoted(value)));
            }
            c => {
                let mut word = String::from(c);
                while let Some((_, c)) = chars.next_if(|(_, c)| !c.is_whitespace() && !matches!(c, '(' | ')' | '\'')) {
                    word.push(c);
                }
                found.push((at, Token::Word(word)));
            }
        }
    }
    Ok(found)
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    next: usize,
    end: usize,
}

impl Parser {
    fn peek(&self) -> Option<&(usize, Token)> {
        self.tokens.get(self.next)
    }

    fn take(&mut self) -> Option<(usize, Token)> {
        let token = self.tokens.get(self.next).cloned();
        self.next += 1;
        token
    }

    fn is_word(&self, wanted: &str) -> bool {
        matches!(self.peek(), Some((_, Token::Word(word))) if word.eq_ignore_ascii_case(wanted))
    }

    fn or(&mut self, depth: usize) -> Result<Node, ApiError> {
        let mut nodes = vec![self.and(depth)?];
        while self.is_word("or") {
            self.next += 1;
            nodes.push(self.and(depth)?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::Or(nodes) })
    }

    fn and(&mut self, depth: usize) -> Result<Node, ApiError> {
        let mut nodes = vec![self.term(depth)?];
        while self.is_word("and") {
            self.next += 1;
            nodes.push(self.term(depth)?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::And(nodes) })
    }

    fn term(&mut self, depth: usize) -> Result<Node, ApiError> {
        let end = self.end;
        match self.take() {
            Some((at, Token::Open)) => {
                if depth == DEEPEST {
                    return Err(wrong(at, "too many parentheses within one another"));
                }
                let node = self.or(depth + 1)?;
                match self.take() {
                    Some((_, Token::Close)) => Ok(node),
                    Some((at, _)) => Err(wrong(at, "`)`, `and` or `or` is expected")),
                    None => Err(wrong(at, "this parenthesis is not closed")),
                }
            }
            Some((at, Token::Word(field))) => self.comparison(at, &field),
            Some((at, _)) => Err(wrong(at, "a field is expected: id, name, scheme, tags.NAME, createdAt, updatedAt")),
            None => Err(wrong(end, "a field is expected: id, name, scheme, tags.NAME, createdAt, updatedAt")),
        }
    }

    fn comparison(&mut self, at: usize, field: &str) -> Result<Node, ApiError> {
        let end = self.end;
        let (operator_at, operator) = match self.take() {
            Some((at, Token::Word(word))) => (at, word),
            Some((at, _)) => return Err(wrong(at, "an operator is expected: co, eq, ne, le, lt, ge, gt")),
            None => return Err(wrong(end, "an operator is expected: co, eq, ne, le, lt, ge, gt")),
        };
        let (value_at, value) = match self.take() {
            Some((at, Token::Quoted(value))) => (at, value),
            Some((at, _)) => return Err(wrong(at, "a value in single quotes is expected")),
            None => return Err(wrong(end, "a value in single quotes is expected")),
        };
        let operator = match operator.to_ascii_lowercase().as_str() {
            "co" => Operator::Co,
            "eq" => Operator::Eq,
            "ne" => Operator::Ne,
            "le" => Operator::Le,
            "lt" => Operator::Lt,
            "ge" => Operator::Ge,
            "gt" => Operator::Gt,
            _ => return Err(wrong(operator_at, "an operator is expected: co, eq, ne, le, lt, ge, gt")),
        };
        let among = |allowed: &[Operator], names: &str| {
            if allowed.contains(&operator) {
                Ok(())
            } else {
                Err(wrong(operator_at, &format!("{field} is compared by {names}")))
            }
        };
        let text = [Operator::Co, Operator::Eq, Operator::Ne];
        let field = match field {
            "createdAt" | "created_at" | "updatedAt" | "updated_at" => {
                among(
                    &[Operator::Eq, Operator::Le, Operator::Lt, Operator::Ge, Operator::Gt],
                    "eq, le, lt, ge and gt",
                )?;
                let value = super::time::parse(&value)
                    .ok_or_else(|| wrong(value_at, "a time is written '2026-01-31T12:00:00Z'"))?;
                return Ok(Node::Time { created: field.starts_with("created"), operator, value });
            }
            "scheme" => {
                among(&[Operator::Eq, Operator::Ne], "eq and ne")?;
                return Ok(Node::Text { field: Field::Scheme, operator, value: value.replace('-', "_") });
            }
            "id" => Field::Id,
            "name" => Field::Name,
            tag => match tag.strip_prefix("tags.").filter(|key| !key.is_empty()) {
                Some(key) => Field::Tag(key.to_owned()),
                None => {
                    return Err(wrong(at, "there are the fields id, name, scheme, tags.NAME, createdAt, updatedAt"));
                }
            },
        };
        among(&text, "co, eq and ne")?;
        Ok(Node::Text { field, operator, value })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::api::credential::Origin;
    use crate::store::{Actor, Change};

    fn credential() -> Credential {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let change = Some(Change { at, by: Actor { name: "a".into() } });
        Credential {
            account: "default".into(),
            id: "azure-prod".into(),
            version: 1,
            name: "It's Azure".into(),
            description: None,
            scheme: "aws_sts".into(),
            hosts: Vec::new(),
            tags: BTreeMap::from([("provider".into(), "azure_rm".into())]),
            enabled: true,
            settings: serde_json::json!({}),
            extra: serde_json::Value::Null,
            expires_at: None,
            origin: Origin::Store,
            created: change.clone(),
            updated: change,
            removed: false,
            changed_fields: Vec::new(),
        }
    }

    #[test]
    fn every_field_and_operator_matches_what_it_says_and_nothing_else() {
        let credential = credential();
        let matches = |text: &str| Filter::parse(text).unwrap().matches(&credential);
        for text in [
            "id co 'azure-'",
            "(id co 'azure-' and scheme eq 'aws-sts')",
            "scheme ne 'oauth2'",
            "name eq 'It''s Azure'",
            "name co 'It\\'s'",
            "tags.provider eq 'azure_rm'",
            "tags.other ne 'x'",
            "createdAt ge '2023-11-14T22:13:20Z' AND updatedAt le '2023-11-14T22:13:20Z'",
            "createdAt eq '2023-11-14T22:13:20Z'",
            "id eq 'x' or id eq 'azure-prod'",
            "id eq 'x' and id eq 'y' or id eq 'azure-prod'",
        ] {
            assert!(matches(text), "{text}");
        }
        for text in [
            "id eq 'azure-'",
            "scheme ne 'aws-sts'",
            "tags.other eq 'x'",
            "tags.other co ''",
            "createdAt gt '2023-11-14T22:13:20Z'",
            "updatedAt lt '2023-11-14T22:13:20Z'",
            "id eq 'x' and (id eq 'y' or id eq 'azure-prod')",
        ] {
            assert!(!matches(text), "{text}");
        }
    }

    #[test]
    fn an_error_says_where_it_is() {
        for (text, at) in [
            ("", 1),
            ("id", 3),
            ("id eq", 6),
            ("id eq x", 7),
            ("id eq 'x", 7),
            ("id lt 'x'", 4),
            ("scheme co 'x'", 8),
            ("createdAt ne '2023-11-14T22:13:20Z'", 11),
            ("createdAt eq 'yesterday'", 14),
            ("color eq 'x'", 1),
            ("tags. eq 'x'", 1),
            ("(id eq 'x'", 1),
            ("id eq 'x')", 10),
            ("id eq 'x' id eq 'y'", 11),
            ("id eq 'x' and", 14),
            (&"(".repeat(33), 33),
        ] {
            let error = Filter::parse(text).unwrap_err();
            assert!(error.detail.contains(&format!("at character {at}:")), "{text}: {error}");
        }
        assert!(Filter::parse(&"x".repeat(5000)).is_err());
    }
}
