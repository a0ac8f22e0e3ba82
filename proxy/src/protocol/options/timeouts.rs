//! How long a route waits, where that differs from `[timeouts]`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::protocol::settings::Timeouts;

/// Named as the keys of `[timeouts]`; what is not set is as there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RouteTimeouts {
    pub connect: Option<Duration>,
    pub tunnel_idle: Option<Duration>,
    pub body_idle: Option<Duration>,
    pub send_idle: Option<Duration>,
    pub response_head: Option<Duration>,
    pub response_idle: Option<Duration>,
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wait {
    Connect,
    TunnelIdle,
    BodyIdle,
    SendIdle,
    ResponseHead,
    ResponseIdle,
}

impl RouteTimeouts {
    pub fn set(&mut self, wait: Wait, limit: Duration) {
        let field = match wait {
            Wait::Connect => &mut self.connect,
            Wait::TunnelIdle => &mut self.tunnel_idle,
            Wait::BodyIdle => &mut self.body_idle,
            Wait::SendIdle => &mut self.send_idle,
            Wait::ResponseHead => &mut self.response_head,
            Wait::ResponseIdle => &mut self.response_idle,
        };
        *field = Some(limit);
    }

    /// `None` where none is set.
    pub fn over(&self, usual: &Timeouts) -> Option<Timeouts> {
        (*self != RouteTimeouts::default()).then(|| Timeouts {
            connect: self.connect.unwrap_or(usual.connect),
            tunnel_idle: self.tunnel_idle.unwrap_or(usual.tunnel_idle),
            body_idle: self.body_idle.unwrap_or(usual.body_idle),
            send_idle: self.send_idle.unwrap_or(usual.send_idle),
            response_head: self.response_head.unwrap_or(usual.response_head),
            response_idle: self.response_idle.unwrap_or(usual.response_idle),
            ..usual.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_set_is_as_usual() {
        let usual = Timeouts::default();
        assert_eq!(RouteTimeouts::default().over(&usual), None);
        let mut timeouts = RouteTimeouts::default();
        for (wait, seconds) in [
            (Wait::ResponseHead, 300),
            (Wait::BodyIdle, 1),
            (Wait::Connect, 2),
            (Wait::TunnelIdle, 9),
        ] {
            timeouts.set(wait, Duration::from_secs(seconds));
        }
        let want = Timeouts {
            response_head: Duration::from_secs(300),
            body_idle: Duration::from_secs(1),
            connect: Duration::from_secs(2),
            tunnel_idle: Duration::from_secs(9),
            ..usual.clone()
        };
        assert_eq!(timeouts.over(&usual), Some(want));
    }
}
