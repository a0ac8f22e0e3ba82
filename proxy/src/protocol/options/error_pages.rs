//! The name of a set of pages for errors: a directory in that of `error_pages`.

/// # Errors
/// The sentence for what is no name; its subject is the value.
pub fn page_set(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    // No way out of the directory, and no hidden one in it.
    if text.bytes().all(is_plain) && !text.starts_with('.') && !text.is_empty() {
        return Ok(text.to_owned());
    }
    Err("is not the name of a directory: letters, digits, `.`, `_` and `-`".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_nowhere_else() {
        for (text, want) in [
            ("shop", true),
            ("a.b-c_1", true),
            ("", false),
            ("..", false),
            ("a/b", false),
            (".x", false),
        ] {
            assert_eq!(page_set(text).is_ok(), want, "{text}");
        }
    }
}
