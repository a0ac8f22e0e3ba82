//! How many bytes of a request body a route takes.

/// `1000`, `64k`, `10m` or `1g`, as nginx writes sizes; `KiB`, `MiB` and `GiB` as baton.toml does.
///
/// # Errors
/// The sentence for what is none; its subject is the text.
pub fn body_size(text: &str) -> Result<u64, String> {
    let form = || "is not a size: expected as 512k, 10m or 1g".to_owned();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        _ => return Err(form()),
    };
    let number: u64 = number.parse().map_err(|_| form())?;
    number.checked_mul(1 << shift).ok_or_else(form)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, want) in [
            ("0", Some(0)),
            ("1000", Some(1000)),
            ("64k", Some(64 << 10)),
            ("10m", Some(10 << 20)),
            ("10M", Some(10 << 20)),
            ("1 GiB", Some(1 << 30)),
            ("10mb", None),
            ("m", None),
            ("", None),
            ("-1", None),
            ("1.5m", None),
            ("99999999999g", None),
        ] {
            assert_eq!(body_size(text).ok(), want, "{text}");
        }
    }
}
