//! Ids that Tower's clients take: at most 22 characters, made of the name.

use aws_lc_rs::digest::{SHA256, digest};

/// The longest id that Tower has.
const LONGEST: usize = 22;
/// What is kept of the name before what makes it unique: a dash and six letters follow.
const FRONT: usize = 15;
/// As many ids as are tried for one name.
const TRIES: u8 = 9;
/// What the paths of the API mean otherwise.
const TAKEN: &str = "validate";

const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The ids for a name, in the order in which they are tried: the name itself if it can be one, then its beginning with six
/// letters of a digest. `salt` differs at each call, so that what was removed under all of them stands in nobody's way.
pub(super) fn candidates(name: &str, salt: [u8; 8]) -> impl Iterator<Item = String> {
    let plain: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')).collect();
    let plain = plain.trim_start_matches('-').to_owned();
    let fits = !plain.is_empty() && plain.len() <= LONGEST && plain == name && plain != TAKEN;
    let own = fits.then(|| plain.clone());
    let name = name.to_owned();
    own.into_iter().chain((0..TRIES).map(move |number| {
        // The first is the same for a name whoever asks, so that two who create it at once meet there.
        let salt: &[u8] = if number == 0 { &[] } else { &salt };
        let digest = digest(&SHA256, &[name.as_bytes(), &[0, number], salt].concat());
        let end: String = digest.as_ref().iter().take(6).map(|byte| letter(*byte)).collect();
        let front = plain.get(..FRONT).unwrap_or(&plain).trim_end_matches('-');
        if front.is_empty() { end } else { format!("{front}-{end}") }
    }))
}

fn letter(byte: u8) -> char {
    LETTERS.get(usize::from(byte) % LETTERS.len()).copied().map_or('0', char::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(name: &str) -> Vec<String> {
        candidates(name, [7; 8]).collect()
    }

    #[test]
    fn a_name_that_can_be_an_id_is_one() {
        assert_eq!(ids("my_aws-creds")[0], "my_aws-creds");
        assert_eq!(ids(&"x".repeat(22))[0], "x".repeat(22));
    }

    #[test]
    fn every_id_is_short_plain_and_another() {
        for name in ["my_aws", "validate", "-", "-a", "__", "äöü", "a b", &"long-name-of-credentials-".repeat(4)] {
            let ids = ids(name);
            for id in &ids {
                assert!(id.len() <= LONGEST && crate::api::check_id(id).is_ok() && id != TAKEN, "{name}: {id}");
            }
            let mut unique = ids.clone();
            unique.sort();
            unique.dedup();
            assert!(unique.len() == ids.len() && ids.len() >= usize::from(TRIES), "{name}: {ids:?}");
        }
    }

    #[test]
    fn two_who_create_the_same_name_meet_at_the_same_id_first() {
        let long = "x".repeat(40);
        let [one, two] = [[1; 8], [2; 8]].map(|salt| candidates(&long, salt).collect::<Vec<_>>());
        assert!(one[0] == two[0] && one[1] != two[1]);
        assert_ne!(ids(&"x".repeat(41))[0], one[0]);
    }
}
