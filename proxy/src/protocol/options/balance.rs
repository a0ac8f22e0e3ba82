//! How the upstreams of one route take turns.

use http::HeaderName;

use crate::protocol::settings::Balance;

/// nginx's word for a field, before its name.
const NGINX_FIELD: &str = "hash $http_";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteBalance {
    Usual(Balance),
    /// The same upstream for the same value of this field, whose name is in lower case.
    Header(String),
}

impl RouteBalance {
    /// As [`Balance::parse`], or `header NAME`; `hash $http_NAME` is nginx's word for that.
    ///
    /// # Errors
    /// The sentence for what is neither; its subject is the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim_end_matches(';').trim_end();
        if let Some(name) = text.strip_prefix("header ") {
            return field(name.trim_start());
        }
        if let Some(name) = text.strip_prefix(NGINX_FIELD) {
            let name = name.strip_suffix(" consistent").unwrap_or(name);
            return field(&name.replace('_', "-"));
        }
        Balance::parse(text).map(RouteBalance::Usual).map_err(|_| {
            "is not one of round-robin, least-loaded, client-address and `header NAME`".to_owned()
        })
    }
}

fn field(name: &str) -> Result<RouteBalance, String> {
    match HeaderName::from_bytes(name.as_bytes()) {
        Ok(name) => Ok(RouteBalance::Header(name.as_str().to_owned())),
        Err(_) => Err(format!("names `{name}`, which is no header field")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_fields() {
        let header = |name: &str| Ok(RouteBalance::Header(name.to_owned()));
        for (text, want) in [
            ("least-loaded", Ok(RouteBalance::Usual(Balance::LeastLoaded))),
            ("header X-User", header("x-user")),
            ("hash $http_x_user;", header("x-user")),
            ("hash $http_x_user consistent;", header("x-user")),
            ("hash $remote_addr;", Ok(RouteBalance::Usual(Balance::ClientAddress))),
            ("header", Err("is not one of")),
            ("header ", Err("is not one of")),
            ("header a b", Err("names `a b`, which is no header field")),
            ("hash $request_uri", Err("is not one of")),
        ] {
            match (RouteBalance::parse(text), want) {
                (Err(found), Err(want)) => assert!(found.starts_with(want), "{text}: {found}"),
                (found, want) => assert_eq!(found, want.map_err(str::to_owned), "{text}"),
            }
        }
    }
}
