//! What a host answers for paths that nobody claims (nginx-proxy's DEFAULT_ROOT).

use serde::{Deserialize, Serialize};

use super::options::redirect::Fixed;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DefaultRoot {
    /// 400 to 599.
    Status(u16),
    /// The location may hold `$scheme`, `$host` and `$request_uri`, as nginx calls them.
    Redirect(Fixed),
}

impl DefaultRoot {
    /// `none`, `404` or another status, `URL`, or `STATUS URL`.
    ///
    /// # Errors
    /// The sentence for what means nothing; its subject is the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(DefaultRoot::Status(404));
        }
        if let Ok(status) = text.parse() {
            return match status {
                400..=599 => Ok(DefaultRoot::Status(status)),
                _ => Err("is not a status from 400 to 599".to_owned()),
            };
        }
        // A place is checked as it will be.
        let fixed = Fixed::parse(&filled(text, "http", "example.com", "/"))?;
        let location = text.split_whitespace().last().unwrap_or_default().to_owned();
        Ok(DefaultRoot::Redirect(Fixed { location, ..fixed }))
    }
}

impl Default for DefaultRoot {
    fn default() -> Self {
        DefaultRoot::Status(404)
    }
}

/// With the variables of one request.
pub fn filled(text: &str, scheme: &str, host: &str, request_uri: &str) -> String {
    let variables = [("$scheme", scheme), ("$host", host), ("$request_uri", request_uri)];
    let mut filled = String::new();
    let mut rest = text;
    // Once: what a client has put into a variable is not looked at again.
    while let Some((before, after)) = rest.split_once('$') {
        filled.push_str(before);
        let found = variables.iter().find_map(|(name, value)| {
            let after = after.strip_prefix(&name[1..])?;
            Some((after, *value))
        });
        let (after, value) = found.unwrap_or((after, "$"));
        filled.push_str(value);
        rest = after;
    }
    filled.push_str(rest);
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_and_each_mistake() {
        let redirect = |status, location: &str| {
            Ok(DefaultRoot::Redirect(Fixed { status, location: location.to_owned() }))
        };
        for (text, want) in [
            ("none", Ok(DefaultRoot::Status(404))),
            ("404", Ok(DefaultRoot::Status(404))),
            ("418", Ok(DefaultRoot::Status(418))),
            ("https://example.com/", redirect(302, "https://example.com/")),
            ("301 http://$host/app/", redirect(301, "http://$host/app/")),
            (
                "307 $scheme://$host/app$request_uri",
                redirect(307, "$scheme://$host/app$request_uri"),
            ),
            ("200", Err("is not a status from 400 to 599")),
            ("/app", Err("is not a place: expected http(s)://HOST/PATH, or STATUS and that")),
            (
                "404 http://a.test",
                Err("has a status that is not one of 301, 302, 303, 307 and 308"),
            ),
        ] {
            assert_eq!(DefaultRoot::parse(text), want.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn variables_are_filled_once() {
        for (text, want) in [
            ("$scheme://$host$request_uri", "https://a.test/$host?x"),
            ("http://b.test/$hostile$", "http://b.test/a.testile$"),
            ("http://b.test/$args", "http://b.test/$args"),
        ] {
            assert_eq!(filled(text, "https", "a.test", "/$host?x"), want);
        }
    }
}
