//! Values of query parameters that the access log does not show.

use std::borrow::Cow;

use percent_encoding::percent_decode;

/// In place of a value.
const HIDDEN: &[u8] = b"(hidden)";
/// What stands between a name and its value, or between two parameters.
const SEPARATORS: [u8; 2] = [b'&', b';'];

/// `target` with the values of these parameters hidden; `*` is all of them. Names are compared as they
/// are meant, without regard to case: `%74oken` is `token`.
pub fn redacted<'a>(target: &'a [u8], names: &[String]) -> Cow<'a, [u8]> {
    let Some(start) = memchr::memchr(b'?', target).filter(|_| !names.is_empty()) else {
        return Cow::Borrowed(target);
    };
    let (path, query) = target.split_at(start + 1);
    let mut shown = path.to_vec();
    for (index, parameter) in query.split(|byte| SEPARATORS.contains(byte)).enumerate() {
        if index > 0 {
            shown.push(b'&');
        }
        match parameter.iter().position(|&byte| byte == b'=') {
            Some(end) if is_hidden(&parameter[..end], names) => {
                shown.extend_from_slice(&parameter[..=end]);
                shown.extend_from_slice(HIDDEN);
            }
            // Without a value, the name may be one.
            None if names.iter().any(|name| name == "*") && !parameter.is_empty() => {
                shown.extend_from_slice(HIDDEN);
            }
            _ => shown.extend_from_slice(parameter),
        }
    }
    Cow::Owned(shown)
}

fn is_hidden(name: &[u8], names: &[String]) -> bool {
    let meant: Vec<u8> = percent_decode(name).collect();
    names.iter().any(|hidden| hidden == "*" || hidden.as_bytes().eq_ignore_ascii_case(&meant))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_hidden_and_names_stay() {
        for (target, names, want) in [
            ("/a?token=1&b=2", "token", "/a?token=(hidden)&b=2"),
            ("/a?b=2;TOKEN=1", "token", "/a?b=2&TOKEN=(hidden)"),
            ("/a?%74oken=1", "token", "/a?%74oken=(hidden)"),
            ("/a?token=1=2?3", "token", "/a?token=(hidden)"),
            ("/a?tokens=1", "token", "/a?tokens=1"),
            ("/a?token", "token", "/a?token"),
            ("/a?x=1&secret", "*", "/a?x=(hidden)&(hidden)"),
            ("/a?", "*", "/a?"),
            ("/a", "*", "/a"),
            ("/a?x=1", "", "/a?x=1"),
        ] {
            let names: Vec<String> =
                Some(names.to_owned()).filter(|name| !name.is_empty()).into_iter().collect();
            let shown = redacted(target.as_bytes(), &names);
            assert_eq!(String::from_utf8_lossy(&shown), want, "{target}");
        }
    }
}
