//! What a request for a file wants of it: nothing where it has it already, a part, or all. Pure.

use std::time::{Duration, SystemTime};

use http_range_header::{EndPosition, StartPosition};

use crate::worker::message::Fields;

/// What there is to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validators {
    /// With its quotes; strong.
    pub tag: String,
    pub modified: SystemTime,
    /// In bytes.
    pub length: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    All,
    /// From the first to the last byte, both counted.
    Part(u64, u64),
    /// 304
    Nothing,
    /// 412
    AnotherOne,
    /// 416
    Impossible,
}

/// In the order of RFC 9110 section 13.2.2.
pub fn wanted(request: &Fields, file: &Validators) -> Wanted {
    let date = |name| request.get(name).and_then(parse_date);
    let modified = whole_seconds(file.modified);
    let fails = match request.all("if-match").as_slice() {
        [] => date("if-unmodified-since").is_some_and(|date| modified > date),
        lists => !lists.iter().any(|list| names_tag(list, &file.tag, Compare::Strong)),
    };
    if fails {
        return Wanted::AnotherOne;
    }
    let has_it = match request.all("if-none-match").as_slice() {
        [] => date("if-modified-since").is_some_and(|date| modified <= date),
        lists => lists.iter().any(|list| names_tag(list, &file.tag, Compare::Weak)),
    };
    if has_it {
        return Wanted::Nothing;
    }
    match request.get("range") {
        Some(range) if is_of_this_one(request, file) => part(range, file.length),
        _ => Wanted::All,
    }
}

/// RFC 9110 section 13.1.5: parts of another version would not fit those that the client has.
fn is_of_this_one(request: &Fields, file: &Validators) -> bool {
    match request.get("if-range") {
        None => true,
        Some(tag) if tag.starts_with(b"\"") => tag == file.tag.as_bytes(),
        Some(date) => parse_date(date) == Some(whole_seconds(file.modified)),
    }
}

/// One part; of several, and of what is no range, all is sent (RFC 9110 section 14.2).
fn part(range: &[u8], length: u64) -> Wanted {
    let parsed = std::str::from_utf8(range).ok();
    let parsed = parsed.and_then(|text| http_range_header::parse_range_header(text).ok());
    let Some([range]) = parsed.as_ref().map(|parsed| &parsed.ranges[..]) else {
        return Wanted::All;
    };
    let first = match range.start {
        StartPosition::Index(first) => first,
        // One that is longer than the file means all of it.
        StartPosition::FromLast(count) => length.saturating_sub(count),
    };
    let last = match range.end {
        EndPosition::Index(last) => last.min(length.saturating_sub(1)),
        EndPosition::LastByte => length.saturating_sub(1),
    };
    if first < length && first <= last { Wanted::Part(first, last) } else { Wanted::Impossible }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Compare {
    Strong,
    Weak,
}

/// A list of entity tags, or `*`. A tag of ours has no comma in it.
fn names_tag(list: &[u8], tag: &str, compare: Compare) -> bool {
    list.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).any(|item| match item {
        b"*" => true,
        item => match item.strip_prefix(b"W/") {
            Some(opaque) => compare == Compare::Weak && opaque == tag.as_bytes(),
            None => item == tag.as_bytes(),
        },
    })
}

fn parse_date(value: &[u8]) -> Option<SystemTime> {
    httpdate::parse_http_date(std::str::from_utf8(value).ok()?).ok()
}

/// As a date of HTTP has it.
fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, HeaderName, HeaderValue};

    const EARLIER: &str = "Sun, 09 Sep 2001 01:46:39 GMT";
    const THEN: &str = "Sun, 09 Sep 2001 01:46:40 GMT";
    const LATER: &str = "Sun, 09 Sep 2001 01:46:41 GMT";

    fn asking(lines: &[(&str, &str)]) -> Wanted {
        let mut fields = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            fields.append(name, HeaderValue::from_str(value).expect("a value"));
        }
        let modified = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 7);
        let file = Validators { tag: "\"a\"".to_owned(), modified, length: 10 };
        wanted(&Fields::Map(fields), &file)
    }

    #[test]
    fn conditions() {
        use Wanted::{All, AnotherOne, Nothing};
        for (lines, want) in [
            (vec![], All),
            (vec![("if-none-match", "\"a\"")], Nothing),
            (vec![("if-none-match", "\"b\", W/\"a\"")], Nothing),
            (vec![("if-none-match", "*")], Nothing),
            (vec![("if-none-match", "\"b\"")], All),
            (vec![("if-none-match", "\"b\""), ("if-modified-since", LATER)], All),
            (vec![("if-modified-since", THEN)], Nothing),
            (vec![("if-modified-since", LATER)], Nothing),
            (vec![("if-modified-since", EARLIER)], All),
            (vec![("if-modified-since", "yesterday")], All),
            (vec![("if-match", "\"a\"")], All),
            (vec![("if-match", "W/\"a\"")], AnotherOne),
            (vec![("if-match", "\"b\"")], AnotherOne),
            (vec![("if-match", "*"), ("if-none-match", "*")], Nothing),
            (vec![("if-unmodified-since", THEN)], All),
            (vec![("if-unmodified-since", EARLIER)], AnotherOne),
        ] {
            assert_eq!(asking(&lines), want, "{lines:?}");
        }
    }

    #[test]
    fn parts() {
        use Wanted::{All, Impossible, Nothing, Part};
        for (range, want) in [
            ("bytes=0-3", Part(0, 3)),
            ("bytes=4-", Part(4, 9)),
            ("bytes=-3", Part(7, 9)),
            ("bytes=0-99", Part(0, 9)),
            ("bytes=-99", Part(0, 9)),
            ("bytes=10-", Impossible),
            ("bytes=3-1", Impossible),
            ("bytes=0-1,4-5", All),
            ("lines=0-1", All),
            ("bytes=x", All),
        ] {
            assert_eq!(asking(&[("range", range)]), want, "{range}");
        }
        for (condition, want) in [
            ("\"a\"", Part(0, 3)),
            ("\"b\"", All),
            ("W/\"a\"", All),
            (THEN, Part(0, 3)),
            (LATER, All),
            (EARLIER, All),
        ] {
            let found = asking(&[("range", "bytes=0-3"), ("if-range", condition)]);
            assert_eq!(found, want, "{condition}");
        }
        assert_eq!(asking(&[("range", "bytes=0-3"), ("if-none-match", "\"a\"")]), Nothing);
    }
}
