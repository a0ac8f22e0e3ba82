//! What is to be done for one certificate, and when. Pure: time is an argument.

use time::OffsetDateTime;

use super::desired::Desired;
use super::record::Record;
use crate::config::Directory;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Place an order there, or go on with the one that is under way there.
    Order(Directory),
    /// Nothing before this time.
    Wait(OffsetDateTime),
    /// Nothing before something happens.
    Idle,
}

pub fn next_step(desired: &Desired, record: &Record, now: OffsetDateTime) -> Step {
    if record.revoked.is_some() {
        return Step::Idle;
    }
    let due = due(desired, record, now);
    if now < due {
        return Step::Wait(due);
    }
    if record.issued.is_none() && record.pending.is_none() && !desired.is_up {
        return Step::Idle;
    }
    if let Some(directory) = under_way(desired, record)
        && record.failures.get(&directory.url).is_none_or(|failure| failure.is_over(now))
    {
        return Step::Order(directory.clone());
    }
    first_ca(desired, record, now)
}

/// Where an order is placed, or gone on with, when somebody does not want to wait.
pub fn at_once<'a>(desired: &'a Desired, record: &Record) -> Option<&'a Directory> {
    under_way(desired, record).or_else(|| desired.directories.first())
}

/// When the certificate in hand is not enough any more.
fn due(desired: &Desired, record: &Record, now: OffsetDateTime) -> OffsetDateTime {
    let Some(issued) = &record.issued else { return now };
    // One that was imported is as good as any; one of a CA that is not asked any more (staging, say)
    // is not.
    let from = issued.origin.directory.as_ref();
    let is_of = |url: &String| desired.directories.iter().any(|directory| directory.url == *url);
    if !issued.has_names(&desired.names) || !from.is_none_or(is_of) {
        return now;
    }
    issued.renewal(now)
}

/// Where an order is under way that may still be asked for.
fn under_way<'a>(desired: &'a Desired, record: &Record) -> Option<&'a Directory> {
    let pending = record.pending.as_ref().filter(|pending| pending.names == desired.names)?;
    desired.directories.iter().find(|directory| directory.url == pending.directory)
}

/// The first CA that may be asked; the next one only where the CAs before it are at fault.
fn first_ca(desired: &Desired, record: &Record, now: OffsetDateTime) -> Step {
    use super::failures::Blame;

    let mut earliest: Option<OffsetDateTime> = None;
    for directory in &desired.directories {
        match record.failures.get(&directory.url) {
            None => return Step::Order(directory.clone()),
            Some(failure) if failure.is_over(now) => return Step::Order(directory.clone()),
            Some(failure) => {
                earliest = Some(earliest.map_or(failure.next_try, |at| at.min(failure.next_try)));
                if failure.blame != Blame::Ca {
                    break;
                }
            }
        }
    }
    earliest.map_or(Step::Idle, Step::Wait)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KeyKind;
    use crate::controller::certificates::acme::failures::{Blame, Failure};
    use crate::controller::certificates::acme::record::{Issued, Origin, Pending};
    use crate::controller::certificates::pair::Pair;
    use std::sync::Arc;
    use time::Duration;

    const NOW: OffsetDateTime = time::macros::datetime!(2026-01-01 00:00 UTC);

    fn directory(name: &str) -> Directory {
        Directory::at(&format!("https://{name}/directory"))
    }

    fn desired() -> Desired {
        Desired {
            names: vec!["a.example.com".to_owned()],
            directories: vec![directory("one"), directory("two")],
            email: None,
            challenges: Vec::new(),
            profile: None,
            preferred_chain: None,
            key: KeyKind::Ec256,
            is_up: true,
        }
    }

    fn failed(record: &mut Record, name: &str, blame: Blame, ago: Duration) {
        let failure = Failure::after(None, blame, String::new(), None, NOW - ago);
        record.failures.insert(directory(name).url, failure);
    }

    #[test]
    fn the_next_ca_is_asked_where_the_one_before_is_at_fault_and_never_for_the_name() {
        let (recently, long_ago) = (Duration::seconds(20), Duration::minutes(2));
        let soon = Step::Wait(NOW + Duration::seconds(40));
        for (failures, want) in [
            (&[][..], Step::Order(directory("one"))),
            (&[("one", Blame::Ca, recently)], Step::Order(directory("two"))),
            (&[("one", Blame::Ca, long_ago)], Step::Order(directory("one"))),
            (&[("one", Blame::Name, recently)], soon.clone()),
            (&[("one", Blame::Host, recently)], soon.clone()),
            (&[("one", Blame::Name, long_ago)], Step::Order(directory("one"))),
            (&[("one", Blame::Ca, recently), ("two", Blame::Ca, recently)], soon.clone()),
            (
                &[("one", Blame::Ca, recently), ("two", Blame::Ca, long_ago)],
                Step::Order(directory("two")),
            ),
        ] {
            let mut record = Record::default();
            for (name, blame, ago) in failures {
                failed(&mut record, name, *blame, *ago);
            }
            assert_eq!(next_step(&desired(), &record, NOW), want, "{failures:?}");
        }
    }

    #[test]
    fn an_order_under_way_is_gone_on_with_where_it_was_placed() {
        let pending = |names: &[&str]| Pending {
            directory: directory("two").url,
            order: None,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            key_pem: String::new(),
            csr_pem: String::new(),
            answers: Vec::new(),
            placed: NOW,
        };
        for (names, want) in [(&["a.example.com"][..], "two"), (&["b.example.com"], "one")] {
            let record = Record { pending: Some(pending(names)), ..Record::default() };
            assert_eq!(next_step(&desired(), &record, NOW), Step::Order(directory(want)));
        }
    }

    #[test]
    fn a_revoked_certificate_is_not_ordered_anew() {
        let record = Record { revoked: Some(NOW), ..Record::default() };
        assert_eq!(next_step(&desired(), &record, NOW + Duration::days(900)), Step::Idle);
    }

    #[test]
    fn a_clock_that_jumps_changes_the_step_at_once() {
        let mut record = Record::default();
        failed(&mut record, "one", Blame::Name, Duration::ZERO);
        for (now, want) in [
            (NOW, Step::Wait(NOW + Duration::minutes(1))),
            (NOW + Duration::days(3650), Step::Order(directory("one"))),
            (NOW - Duration::days(3650), Step::Order(directory("one"))),
        ] {
            assert_eq!(next_step(&desired(), &record, now), want, "failed, {now}");
        }
        let record = Record { issued: Some(issued()), ..Record::default() };
        let renewal = record.issued.as_ref().expect("issued above").renewal(NOW);
        for (now, want) in [
            (NOW, Step::Wait(renewal)),
            (renewal, Step::Order(directory("one"))),
            (NOW + Duration::days(3650), Step::Order(directory("one"))),
            (NOW - Duration::days(3650), Step::Wait(renewal)),
        ] {
            assert_eq!(next_step(&desired(), &record, now), want, "issued, {now}");
        }
    }

    /// For 90 days from `NOW` on.
    fn issued() -> Issued {
        let mut params = rcgen::CertificateParams::new(desired().names).expect("names");
        (params.not_before, params.not_after) = (NOW, NOW + Duration::days(90));
        let key = rcgen::KeyPair::generate().expect("key");
        let chain = params.self_signed(&key).expect("certificate").pem();
        let pair = Pair::parse(&chain, &key.serialize_pem()).expect("pair");
        let origin = Origin { directory: Some(directory("one").url), ..Origin::default() };
        Issued { pair: Arc::new(pair), origin }
    }

    #[test]
    fn a_name_that_nobody_answers_for_has_no_first_order() {
        let down = Desired { is_up: false, ..desired() };
        assert_eq!(next_step(&down, &Record::default(), NOW), Step::Idle);
    }
}
