//! Address ranges as people write them: `10.0.0.0/8`, or one address alone.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de};

/// Reads a list of ranges and addresses.
///
/// # Errors
/// When one is neither.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| parse(text).map_err(de::Error::custom)).collect()
}

fn parse(text: &str) -> Result<IpNet, String> {
    let alone = text.parse::<IpAddr>().map(IpNet::from);
    text.parse::<IpNet>()
        .or(alone)
        .map_err(|_| format!("`{text}` is not an address range: write 10.0.0.0/8 or one address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_or_one_address_is_taken() {
        assert_eq!(parse("10.0.0.0/8").unwrap().prefix_len(), 8);
        assert_eq!(parse("127.0.0.1").unwrap().prefix_len(), 32);
        assert_eq!(parse("::1").unwrap().prefix_len(), 128);
        assert!(parse("10.0.0/8").is_err() && parse("example.com").is_err());
    }
}
