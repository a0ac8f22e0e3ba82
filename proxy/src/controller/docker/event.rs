//! What an event asks for. Events only say whom to look at; the daemon's description of the
//! container says what is true. The one exception is `kill`, which must not wait.

use bollard::models::{EventMessage, EventMessageTypeEnum};

use super::signal;

#[derive(Debug, PartialEq, Eq)]
pub enum Reaction {
    /// Look at this container again.
    Inspect(String),
    /// A new run of this container: what was known of the last one is void.
    Started(String),
    /// It was sent this signal.
    Signalled(String, i32),
    /// It ended.
    Died(String),
}

/// `None` for what routing does not depend on, the many `exec_*` of health checks among it.
pub fn reaction(event: EventMessage) -> Option<Reaction> {
    let actor = event.actor?;
    let attributes = actor.attributes.unwrap_or_default();
    let action = event.action?;
    if event.typ == Some(EventMessageTypeEnum::NETWORK) {
        let container = attributes.get("container").filter(|id| !id.is_empty())?;
        return matches!(action.as_str(), "connect" | "disconnect")
            .then(|| Reaction::Inspect(container.clone()));
    }
    let id = actor.id.filter(|id| !id.is_empty())?;
    // `health_status: healthy`
    match action.split(':').next().unwrap_or_default() {
        "start" => Some(Reaction::Started(id)),
        // Podman has not always said which signal.
        "kill" => Some(match attributes.get("signal").and_then(|text| signal::number(text)) {
            Some(signal) => Reaction::Signalled(id, signal),
            None => Reaction::Inspect(id),
        }),
        "die" | "died" => Some(Reaction::Died(id)),
        "create" | "stop" | "destroy" | "remove" | "restart" | "rename" | "pause" | "unpause"
        | "update" | "health_status" => Some(Reaction::Inspect(id)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Reaction::*;

    fn event(json: &str) -> EventMessage {
        serde_json::from_str(json).expect(json)
    }

    #[test]
    fn reactions() {
        let c = || "c".to_owned();
        for (typ, action, attributes, want) in [
            ("container", "create", "{}", Some(Inspect(c()))),
            ("container", "start", "{}", Some(Started(c()))),
            ("container", "die", r#"{"exitCode": "0"}"#, Some(Died(c()))),
            ("container", "stop", "{}", Some(Inspect(c()))),
            ("container", "destroy", "{}", Some(Inspect(c()))),
            ("container", "rename", r#"{"oldName": "/x"}"#, Some(Inspect(c()))),
            ("container", "pause", "{}", Some(Inspect(c()))),
            ("container", "unpause", "{}", Some(Inspect(c()))),
            ("container", "update", "{}", Some(Inspect(c()))),
            ("container", "health_status: healthy", "{}", Some(Inspect(c()))),
            ("container", "health_status", "{}", Some(Inspect(c()))),
            ("container", "kill", r#"{"signal": "15"}"#, Some(Signalled(c(), 15))),
            ("container", "kill", r#"{"signal": "SIGHUP"}"#, Some(Signalled(c(), 1))),
            ("container", "kill", "{}", Some(Inspect(c()))),
            ("container", "exec_create: /bin/true", "{}", None),
            ("container", "attach", "{}", None),
            ("container", "levitate", "{}", None),
            ("network", "connect", r#"{"container": "d"}"#, Some(Inspect("d".to_owned()))),
            ("network", "disconnect", r#"{"container": "d"}"#, Some(Inspect("d".to_owned()))),
            ("network", "create", "{}", None),
            ("network", "connect", "{}", None),
        ] {
            let json = format!(
                r#"{{"Type": "{typ}", "Action": "{action}", "scope": "local", "time": 1,
                     "Actor": {{"ID": "c", "Attributes": {attributes}}}, "New": 1}}"#
            );
            assert_eq!(reaction(event(&json)), want, "{typ} {action} {attributes}");
        }
        assert_eq!(reaction(event("{}")), None);
    }
}
