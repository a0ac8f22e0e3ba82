//! Pages that people have written for errors, in place of our own.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use http::StatusCode;

/// Those of one name.
#[derive(Debug, Default)]
pub struct ErrorPages {
    /// By status, as `502`, or by its class, as `5xx`.
    by_status: HashMap<Box<str>, Bytes>,
}

/// Those of all names.
#[derive(Debug, Default)]
pub struct PageSets {
    /// For routes that name no other.
    usual: ErrorPages,
    named: HashMap<Box<str>, ErrorPages>,
}

impl ErrorPages {
    fn new(pages: BTreeMap<String, String>) -> Self {
        let page = |(status, html): (String, String)| (status.into(), Bytes::from(html));
        ErrorPages { by_status: pages.into_iter().map(page).collect() }
    }

    /// The page for a status, else for its class.
    pub fn of(&self, status: StatusCode) -> Option<&Bytes> {
        if self.by_status.is_empty() {
            return None;
        }
        let class = || self.by_status.get(format!("{}xx", status.as_u16() / 100).as_str());
        self.by_status.get(status.as_str()).or_else(class)
    }
}

impl PageSets {
    /// As the snapshot has them: an empty name is that of the usual ones.
    pub fn new(mut sets: BTreeMap<String, BTreeMap<String, String>>) -> Self {
        let usual = ErrorPages::new(sets.remove("").unwrap_or_default());
        let named = sets.into_iter().map(|(name, pages)| (name.into(), ErrorPages::new(pages)));
        PageSets { usual, named: named.collect() }
    }

    /// The usual ones where there are none of this name.
    pub fn named(&self, name: Option<&str>) -> &ErrorPages {
        name.and_then(|name| self.named.get(name)).unwrap_or(&self.usual)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_exact_page_is_shown() {
        let set = |pages: &[(&str, &str)]| {
            pages.iter().map(|(status, html)| ((*status).to_owned(), (*html).to_owned())).collect()
        };
        let sets = PageSets::new(BTreeMap::from([
            (String::new(), set(&[("5xx", "class"), ("503", "exact"), ("4xx", "four")])),
            ("shop".to_owned(), set(&[("404", "shop")])),
        ]));
        for (name, status, want) in [
            (None, 503, Some("exact")),
            (None, 502, Some("class")),
            (None, 404, Some("four")),
            (Some("shop"), 404, Some("shop")),
            (Some("shop"), 502, None),
            (Some("unknown"), 502, Some("class")),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            let shown = sets.named(name).of(status).map(|page| page.as_ref());
            assert_eq!(shown, want.map(str::as_bytes), "{name:?} {status}");
        }
    }
}
