//! Credential ids that stand for another one in each account: `aws_{project_id}`.

/// A credential's id in an account, `{project_id}` and `{org_id}` filled in. An account named `N` is that of project N and
/// workspace N, one named `org-N` that of organization N; `org` says the organization of a project's account.
///
/// # Errors
/// What to give where a placeholder is not known or cannot be told.
pub fn resolve(id: &str, account: &str, org: Option<&str>) -> Result<String, String> {
    let mut resolved = String::with_capacity(id.len());
    let mut rest = id;
    while let Some(at) = rest.find(['{', '}']) {
        let (front, hole) = rest.split_at(at);
        let hole = hole.strip_prefix('{').and_then(|hole| hole.split_once('}'));
        let Some((name, after)) = hole else {
            return Err(format!("`{id}`: a brace without its other half; write {{project_id}} or {{org_id}}"));
        };
        resolved.push_str(front);
        resolved.push_str(match name {
            "project_id" => project(id, account)?,
            "org_id" => organization(id, account, org)?,
            other => return Err(format!("`{id}`: there is no {{{other}}}; write {{project_id}} or {{org_id}}")),
        });
        rest = after;
    }
    Ok(resolved + rest)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn project<'a>(id: &str, account: &'a str) -> Result<&'a str, String> {
    let told = is_number(account).then_some(account);
    told.ok_or_else(|| {
        format!("`{id}`: account {account} is that of no project, which is named by its number: write the credential's own id")
    })
}

fn organization<'a>(id: &str, account: &'a str, org: Option<&'a str>) -> Result<&'a str, String> {
    let own = account.strip_prefix("org-").filter(|number| is_number(number));
    match (own, org) {
        (Some(own), Some(org)) if own != org => {
            Err(format!("`{id}`: account {account} is that of organization {own}, not of {org}"))
        }
        (Some(own), _) => Ok(own),
        (None, Some(org)) if is_number(org) => Ok(org),
        (None, Some(org)) => Err(format!("`{id}`: `{org}` is not the number of an organization")),
        (None, None) => Err(format!("`{id}`: account {account} does not tell its organization: give its number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_stand_for_the_numbers_of_the_account() {
        for (id, account, org, expected) in [
            ("aws_default", "default", None, "aws_default"),
            ("aws_{project_id}", "1234", None, "aws_1234"),
            ("aws_{org_id}", "org-77", None, "aws_77"),
            ("aws_{org_id}", "org-77", Some("77"), "aws_77"),
            ("{org_id}_{project_id}_x", "1234", Some("77"), "77_1234_x"),
            ("{project_id}{project_id}", "1", None, "11"),
        ] {
            assert_eq!(resolve(id, account, org).as_deref(), Ok(expected), "{id} {account}");
        }
    }

    #[test]
    fn a_placeholder_that_is_unknown_or_cannot_be_told_says_what_to_give() {
        for (id, account, org, why) in [
            ("aws_{project_id}", "default", None, "write the credential's own id"),
            ("aws_{project_id}", "org-77", Some("77"), "is that of no project"),
            ("aws_{org_id}", "1234", None, "give its number"),
            ("aws_{org_id}", "org-x", None, "give its number"),
            ("aws_{org_id}", "1234", Some("x"), "not the number of an organization"),
            ("aws_{org_id}", "org-77", Some("78"), "organization 77, not of 78"),
            ("aws_{user}", "1234", Some("77"), "there is no {user}"),
            ("aws_{", "1234", None, "other half"),
            ("aws_}", "1234", None, "other half"),
            ("{project_id", "1234", None, "other half"),
        ] {
            let refused = resolve(id, account, org).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
