//! HTTP/2 as RFC 9113 and RFC 7541 have it: the cases of h2spec, section by section, and what baton
//! answers to each.
//!
//! An endpoint may treat a stream error as a connection error (RFC 9113 section 5.4.1), and may close a
//! connection without GOAWAY. Where baton's answer has another code than the RFC asks for, the case
//! says so and why.

use baton_load::{Target, Upstream};
use baton_tests::frames::{
    Frame, PREFACE, block, code, continuation, data, dependency, flag, frame, goaway, headers,
    integer, kind, literal, ping, priority, priority_update, reset, setting, settings, string,
    window_update,
};
use baton_tests::{Baton, FrameClient};
use tokio::task::JoinSet;

use crate::{APP, PLAIN, routed_to};

/// What a client is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// A whole response.
    Answered(u16),
    Pong(u8),
    /// DATA, where another length was due.
    Data(usize),
    /// RST_STREAM.
    Reset(u32),
    /// GOAWAY with an error, and then the end of the connection.
    Goaway(u32),
    /// The end of the connection.
    Closed,
}

/// What a client does.
enum Step {
    /// As it is, once the connection has begun.
    Send(Vec<u8>),
    /// Waits for the end of a response.
    End(u32),
    /// Waits for the acknowledgement of settings.
    Ack,
    /// Waits for DATA, which has to be as long as this.
    Window(usize),
}

use Step::{Ack, End, Send, Window};

struct Case {
    /// The section, and what is sent.
    name: &'static str,
    steps: Vec<Step>,
    /// One of these follows.
    allowed: Vec<Seen>,
}

fn case(name: &'static str, frames: impl IntoIterator<Item = Vec<u8>>, allowed: &[Seen]) -> Case {
    stepwise(name, vec![Send(frames.into_iter().flatten().collect())], allowed)
}

fn stepwise(name: &'static str, steps: Vec<Step>, allowed: &[Seen]) -> Case {
    Case { name, steps, allowed: allowed.to_vec() }
}

const OK: &[Seen] = &[Seen::Answered(200)];
const ALIVE: &[Seen] = &[Seen::Pong(7)];
const PROTOCOL: &[Seen] = &[Seen::Goaway(code::PROTOCOL_ERROR)];
const FRAME_SIZE: &[Seen] = &[Seen::Goaway(code::FRAME_SIZE_ERROR)];
const FLOW_CONTROL: &[Seen] = &[Seen::Goaway(code::FLOW_CONTROL_ERROR)];
/// A stream error, for which a connection error may stand.
const STREAM_PROTOCOL: &[Seen] =
    &[Seen::Reset(code::PROTOCOL_ERROR), Seen::Goaway(code::PROTOCOL_ERROR)];
const STREAM_FLOW_CONTROL: &[Seen] = &[Seen::Reset(code::FLOW_CONTROL_ERROR)];
const STREAM_CLOSED: &[Seen] = &[Seen::Reset(code::STREAM_CLOSED)];
const REFUSED: &[Seen] = &[Seen::Reset(code::REFUSED_STREAM)];

// Deviations of h2: the connection ends as the RFC wants, with PROTOCOL_ERROR in place of the code of
// the RFC. It names the peer's fault less exactly; h2 does not let its user choose the code.
/// In place of FRAME_SIZE_ERROR: lengths of fixed-size frames are checked as their payload is parsed.
const H2_FRAME_SIZE: &[Seen] = PROTOCOL;
/// In place of COMPRESSION_ERROR.
const H2_COMPRESSION: &[Seen] = PROTOCOL;
/// In place of FLOW_CONTROL_ERROR.
const H2_FLOW_CONTROL: &[Seen] = PROTOCOL;
/// In place of STREAM_CLOSED.
const H2_STREAM_CLOSED: &[Seen] = PROTOCOL;

/// A header block of this request.
fn request(method: &str, path: &str) -> Vec<u8> {
    block(&[(":method", method), (":scheme", "http"), (":authority", PLAIN), (":path", path)])
}

/// A request that is answered at once.
fn get(stream: u32) -> Vec<u8> {
    headers(stream, flag::WHOLE, &request("GET", "/"))
}

/// A request that is not answered before the case is over.
fn slow(stream: u32) -> Vec<u8> {
    headers(stream, flag::WHOLE, &request("GET", "/slow?ms=60000"))
}

/// The head of a request with a body.
fn post(stream: u32) -> Vec<u8> {
    headers(stream, flag::END_HEADERS, &request("POST", "/sink"))
}

/// A request with more in its head.
fn get_with(fields: &[(&str, &str)]) -> Vec<u8> {
    headers(1, flag::WHOLE, &[request("GET", "/"), block(fields)].concat())
}

/// A request with this head and no other.
fn bare(fields: &[(&str, &str)]) -> Vec<u8> {
    headers(1, flag::WHOLE, &block(fields))
}

fn starting() -> Vec<Case> {
    vec![
        stepwise("generic 1: settings are acknowledged", vec![Ack, Send(ping(7))], ALIVE),
        case("3.5: a ping after the preface", vec![ping(7)], ALIVE),
        case("generic 2: PRIORITY on an idle stream", vec![priority(1, 0, 255), get(1)], OK),
        stepwise(
            "generic 2: WINDOW_UPDATE on a half-closed stream",
            vec![Send([get(1), window_update(1, 100)].concat())],
            OK,
        ),
        case("generic 2: PRIORITY on a half-closed stream", vec![get(1), priority(1, 0, 255)], OK),
        case(
            "generic 2: RST_STREAM on a half-closed stream",
            vec![slow(1), reset(1, code::CANCEL), ping(7)],
            ALIVE,
        ),
        stepwise(
            "generic 2: PRIORITY on a closed stream",
            vec![Send(get(1)), End(1), Send([priority(1, 0, 255), ping(7)].concat())],
            ALIVE,
        ),
    ]
}

fn every_frame() -> Vec<Case> {
    vec![
        case("generic 3.1: one DATA", vec![post(1), data(1, flag::END_STREAM, b"test")], OK),
        case(
            "generic 3.1: several DATA",
            vec![post(1), data(1, 0, b"test"), data(1, flag::END_STREAM, b"test")],
            OK,
        ),
        case(
            "generic 3.1: DATA with padding",
            vec![post(1), data(1, flag::END_STREAM | flag::PADDED, b"\x04test\0\0\0\0")],
            OK,
        ),
        case("generic 3.2: HEADERS", vec![get(1)], OK),
        case(
            "generic 3.2: HEADERS with padding",
            vec![headers(
                1,
                flag::WHOLE | flag::PADDED,
                &[&[2], &request("GET", "/")[..], &[0; 2]].concat(),
            )],
            OK,
        ),
        case(
            "generic 3.2: HEADERS with priority",
            vec![headers(
                1,
                flag::WHOLE | flag::PRIORITY,
                &[dependency(0, 255), request("GET", "/")].concat(),
            )],
            OK,
        ),
        case("generic 3.3: PRIORITY, weight 1", vec![priority(1, 0, 0), get(1)], OK),
        case("generic 3.3: PRIORITY, weight 256", vec![priority(1, 0, 255), get(1)], OK),
        case("generic 3.3: PRIORITY on another stream", vec![priority(1, 3, 255), get(1)], OK),
        case("generic 3.3: PRIORITY, exclusive", vec![priority(1, 3 | 1 << 31, 255), get(1)], OK),
        case("generic 3.3: PRIORITY on a stream to come", vec![priority(5, 3, 255), get(1)], OK),
        case("generic 3.4: RST_STREAM", vec![slow(1), reset(1, code::CANCEL), get(3)], OK),
        case(
            "generic 3.5: SETTINGS",
            vec![settings(&[(setting::INITIAL_WINDOW_SIZE, 100_000)]), get(1)],
            OK,
        ),
        case("generic 3.7: PING", vec![ping(7)], ALIVE),
        case("generic 3.8: GOAWAY", vec![get(1), goaway(0, code::NO_ERROR)], OK),
        case("generic 3.9: WINDOW_UPDATE, connection", vec![window_update(0, 1), get(1)], OK),
        case(
            "generic 3.9: WINDOW_UPDATE, stream",
            vec![post(1), window_update(1, 1), data(1, flag::END_STREAM, b"test")],
            OK,
        ),
        case("generic 3.10: CONTINUATION", in_parts(1, 2), OK),
        case("generic 3.10: several CONTINUATION", in_parts(1, 5), OK),
    ]
}

/// A request whose header block comes in so many frames.
fn in_parts(stream: u32, parts: usize) -> Vec<Vec<u8>> {
    let request = request("GET", "/");
    let parts: Vec<&[u8]> = request.chunks(request.len().div_ceil(parts)).collect();
    let [first, rest @ .., last] = parts.as_slice() else { panic!("two parts or more") };
    let rest = rest.iter().map(|part| continuation(stream, 0, part));
    [headers(stream, flag::END_STREAM, first)]
        .into_iter()
        .chain(rest)
        .chain([continuation(stream, flag::END_HEADERS, last)])
        .collect()
}

fn messages() -> Vec<Case> {
    let trailers = headers(1, flag::WHOLE, &block(&[("x-checked", "yes")]));
    vec![
        case("generic 4: GET", vec![get(1)], OK),
        case("generic 4: HEAD", vec![headers(1, flag::WHOLE, &request("HEAD", "/"))], OK),
        case("generic 4: POST", vec![post(1), data(1, flag::END_STREAM, b"test")], OK),
        case("generic 4: POST with trailers", vec![post(1), data(1, 0, b"test"), trailers], OK),
    ]
}

fn header_compression() -> Vec<Case> {
    let with = |field: &[u8]| headers(1, flag::WHOLE, &[&request("GET", "/"), field].concat());
    let twice = |stream| headers(stream, flag::WHOLE, &[request("GET", "/"), vec![0xbe]].concat());
    let indexed = [&[0x82, 0x86, 0x84], &block(&[(":authority", PLAIN)])[..]].concat();
    let inserted = literal(0x40, b"x-test", b"test");
    vec![
        case("generic 5: indexed fields", vec![headers(1, flag::WHOLE, &indexed)], OK),
        case(
            "generic 5: literal, indexed, indexed name",
            vec![with(&[&[0x40 | 58], &string(b"test")[..]].concat())],
            OK,
        ),
        case("generic 5: literal, indexed, new name", vec![with(&inserted)], OK),
        case(
            "generic 5: literal, not indexed, indexed name",
            vec![with(&[integer(0, 4, 58), string(b"test")].concat())],
            OK,
        ),
        case("generic 5: literal, not indexed, new name", vec![with(&literal(0, b"x", b"t"))], OK),
        case(
            "generic 5: literal, never indexed, indexed name",
            vec![with(&[integer(0x10, 4, 58), string(b"test")].concat())],
            OK,
        ),
        case(
            "generic 5: literal, never indexed, new name",
            vec![with(&literal(0x10, b"x", b"t"))],
            OK,
        ),
        case(
            "generic 5: a field of the dynamic table",
            vec![with(&inserted), twice(3), slow(5), reset(1, code::CANCEL)],
            OK,
        ),
        case(
            "generic 5: dynamic table size update",
            vec![headers(1, flag::WHOLE, &[integer(0x20, 5, 100), request("GET", "/")].concat())],
            OK,
        ),
        case(
            "generic 5: Huffman coding",
            vec![with(&[&[0x40 | 58, 0x83], HUFFMAN_TEST].concat())],
            OK,
        ),
        case(
            "7541 2.3.3: an index that is nowhere",
            vec![with(&integer(0x80, 7, 70))],
            H2_COMPRESSION,
        ),
        case(
            "7541 2.3.3: a name whose index is nowhere",
            vec![with(&[integer(0x40, 6, 70), string(b"test")].concat())],
            H2_COMPRESSION,
        ),
        case("7541 4.2: a size update at the end of a block", vec![with(&[0x21])], H2_COMPRESSION),
        case(
            "7541 5.2: more than seven bits of padding",
            vec![with(&[&[0x40 | 58, 0x84], HUFFMAN_TEST, &[0xff]].concat())],
            H2_COMPRESSION,
        ),
        case(
            "7541 5.2: padding of zeros",
            vec![with(&[0x40 | 58, 0x83, 0x49, 0x50, 0x90])],
            H2_COMPRESSION,
        ),
        case(
            "7541 5.2: the end-of-string symbol",
            vec![with(&[&[0x40 | 58, 0x87], HUFFMAN_TEST, &[0xff; 4]].concat())],
            H2_COMPRESSION,
        ),
        case("7541 6.1: index 0", vec![with(&[0x80])], H2_COMPRESSION),
        case(
            "7541 6.3: a size update above the setting",
            vec![headers(1, flag::WHOLE, &[integer(0x20, 5, 4097), request("GET", "/")].concat())],
            H2_COMPRESSION,
        ),
    ]
}

/// `test`, with four bits of padding.
const HUFFMAN_TEST: &[u8] = &[0x49, 0x50, 0x9f];

fn frame_format() -> Vec<Case> {
    const LARGEST: usize = 16_384;
    let filler = "x".repeat(LARGEST);
    vec![
        case(
            "4.1: a frame of an unknown type",
            vec![frame(kind::UNKNOWN, 0, 0, b"test"), ping(7)],
            ALIVE,
        ),
        case("4.1: undefined flags", vec![frame(kind::PING, 0xfe, 0, &[7; 8])], ALIVE),
        case("4.1: the reserved bit", vec![frame(kind::PING, 0, 1 << 31, &[7; 8])], ALIVE),
        case(
            "4.2: DATA of 16,384 octets",
            vec![post(1), data(1, flag::END_STREAM, filler.as_bytes())],
            OK,
        ),
        case(
            "4.2: DATA above the frame size",
            vec![post(1), data(1, flag::END_STREAM, &[0; LARGEST + 1])],
            FRAME_SIZE,
        ),
        case(
            "4.2: HEADERS above the frame size",
            vec![get_with(&[("x-large", &filler)])],
            FRAME_SIZE,
        ),
        case(
            "4.3: a header block that is no such thing",
            vec![headers(1, flag::WHOLE, b"\x40\x01x")],
            H2_COMPRESSION,
        ),
        case(
            "4.3: PRIORITY inside a header block",
            vec![headers(1, flag::END_STREAM, &request("GET", "/")), priority(1, 0, 255)],
            PROTOCOL,
        ),
        case(
            "4.3: HEADERS of another stream inside a header block",
            vec![headers(1, flag::END_STREAM, &request("GET", "/")), get(3)],
            PROTOCOL,
        ),
        case("5.5: an extension frame", vec![frame(kind::UNKNOWN, 0, 1, b"test"), get(1)], OK),
        case(
            "RFC 9218 7.1: PRIORITY_UPDATE of any stream and value",
            vec![
                priority_update(1, "u=0, i"),
                get(1),
                priority_update(1, "u=9, \u{0}\u{ff}"),
                priority_update(0, ""),
                frame(kind::PRIORITY_UPDATE, 0xff, 0, b""),
            ],
            OK,
        ),
        case(
            "5.5: an extension frame inside a header block",
            vec![
                headers(1, flag::END_STREAM, &request("GET", "/")),
                frame(kind::UNKNOWN, 0, 1, b"test"),
                continuation(1, flag::END_HEADERS, b""),
            ],
            PROTOCOL,
        ),
    ]
}

fn stream_states() -> Vec<Case> {
    let cancelled = |frame| vec![slow(1), reset(1, code::CANCEL), frame];
    let answered = |frame| vec![Send(get(1)), End(1), Send(frame)];
    let block = request("GET", "/");
    vec![
        case("5.1: DATA on an idle stream", vec![data(1, flag::END_STREAM, b"test")], PROTOCOL),
        case("5.1: RST_STREAM on an idle stream", vec![reset(1, code::CANCEL)], PROTOCOL),
        case("5.1: WINDOW_UPDATE on an idle stream", vec![window_update(1, 100)], PROTOCOL),
        case(
            "5.1: CONTINUATION on an idle stream",
            vec![continuation(1, flag::END_HEADERS, &block)],
            PROTOCOL,
        ),
        case(
            "5.1: DATA on a half-closed stream",
            vec![slow(1), data(1, flag::END_STREAM, b"test")],
            H2_STREAM_CLOSED,
        ),
        case("5.1: HEADERS on a half-closed stream", vec![slow(1), get(1)], H2_STREAM_CLOSED),
        case(
            "5.1: CONTINUATION on a half-closed stream",
            vec![slow(1), continuation(1, flag::END_HEADERS, &block)],
            PROTOCOL,
        ),
        case(
            "5.1: DATA after RST_STREAM",
            cancelled(data(1, flag::END_STREAM, b"test")),
            STREAM_CLOSED,
        ),
        case("5.1: HEADERS after RST_STREAM", cancelled(get(1)), H2_STREAM_CLOSED),
        case(
            "5.1: CONTINUATION after RST_STREAM",
            cancelled(continuation(1, flag::END_HEADERS, &block)),
            PROTOCOL,
        ),
        stepwise(
            "5.1: DATA on a closed stream",
            answered(data(1, flag::END_STREAM, b"test")),
            STREAM_CLOSED,
        ),
        stepwise("5.1: HEADERS on a closed stream", answered(get(1)), H2_STREAM_CLOSED),
        stepwise(
            "5.1: CONTINUATION on a closed stream",
            answered(continuation(1, flag::END_HEADERS, &block)),
            PROTOCOL,
        ),
        case("5.1.1: a stream with an even identifier", vec![get(2)], PROTOCOL),
        stepwise(
            "5.1.1: an identifier below the last one",
            vec![Send(get(5)), End(5), Send(get(3))],
            PROTOCOL,
        ),
        case("5.1.2: more streams than are allowed", (0..=128).map(|n| slow(2 * n + 1)), REFUSED),
        case(
            "5.4.1: a bad frame ends the connection",
            vec![frame(kind::PING, 0, 3, &[7; 8])],
            PROTOCOL,
        ),
    ]
}

/// RFC 9113 has done away with priorities, and with what RFC 7540 said of a stream that depends on
/// itself: it may be ignored, and may still be a stream error.
fn priorities() -> Vec<Case> {
    let itself = [dependency(1, 255), request("GET", "/")].concat();
    vec![
        case(
            "5.3.1: HEADERS of a stream that depends on itself",
            vec![headers(1, flag::WHOLE | flag::PRIORITY, &itself)],
            STREAM_PROTOCOL,
        ),
        case(
            "5.3.1: PRIORITY of a stream that depends on itself",
            vec![priority(1, 1, 255)],
            STREAM_PROTOCOL,
        ),
        case("6.3: PRIORITY on stream 0", vec![priority(0, 1, 255)], PROTOCOL),
        case(
            "6.3: PRIORITY of four octets",
            vec![slow(1), frame(kind::PRIORITY, 0, 1, &[0; 4])],
            H2_FRAME_SIZE,
        ),
    ]
}

fn data_and_headers() -> Vec<Case> {
    vec![
        case("6.1: DATA on stream 0", vec![data(0, flag::END_STREAM, b"test")], PROTOCOL),
        case(
            "6.1: DATA on a stream that is not open",
            vec![slow(1), data(1, flag::END_STREAM, b"test")],
            H2_STREAM_CLOSED,
        ),
        case(
            "6.1: DATA that is less than its padding",
            vec![post(1), data(1, flag::END_STREAM | flag::PADDED, b"\x06test")],
            PROTOCOL,
        ),
        case(
            "6.2: HEADERS, then PRIORITY before the end of the block",
            vec![headers(1, flag::END_STREAM, &request("GET", "/")), priority(1, 0, 255)],
            PROTOCOL,
        ),
        case(
            "6.2: HEADERS, then HEADERS of another stream before the end of the block",
            vec![headers(1, flag::END_STREAM, &request("GET", "/")), get(3)],
            PROTOCOL,
        ),
        case("6.2: HEADERS on stream 0", vec![get(0)], PROTOCOL),
        case(
            "6.2: HEADERS that is less than its padding",
            vec![headers(1, flag::WHOLE | flag::PADDED, b"\xff\x82")],
            PROTOCOL,
        ),
        case("6.4: RST_STREAM on stream 0", vec![reset(0, code::CANCEL)], PROTOCOL),
        case("6.4: RST_STREAM on an idle stream", vec![reset(1, code::CANCEL)], PROTOCOL),
        case(
            "6.4: RST_STREAM of three octets",
            vec![slow(1), frame(kind::RST_STREAM, 0, 1, &[0; 3])],
            H2_FRAME_SIZE,
        ),
        case("7: GOAWAY with an unknown code", vec![goaway(0, 0xff), get(1), ping(7)], ALIVE),
        case("7: RST_STREAM with an unknown code", vec![slow(1), reset(1, 0xff), ping(7)], ALIVE),
        case(
            "8.2: PUSH_PROMISE from a client",
            vec![frame(
                kind::PUSH_PROMISE,
                flag::END_HEADERS,
                1,
                &[vec![0, 0, 0, 2], request("GET", "/")].concat(),
            )],
            PROTOCOL,
        ),
    ]
}

fn setting_values() -> Vec<Case> {
    let one = |name, value| vec![settings(&[(name, value)])];
    vec![
        case(
            "6.5: an acknowledgement with a payload",
            vec![frame(kind::SETTINGS, flag::ACK, 0, &[0; 6])],
            H2_FRAME_SIZE,
        ),
        case("6.5: SETTINGS on a stream", vec![frame(kind::SETTINGS, 0, 1, &[])], PROTOCOL),
        case(
            "6.5: SETTINGS of three octets",
            vec![frame(kind::SETTINGS, 0, 0, &[0; 3])],
            H2_FRAME_SIZE,
        ),
        case("6.5.2: ENABLE_PUSH 2", one(setting::ENABLE_PUSH, 2), PROTOCOL),
        case(
            "6.5.2: INITIAL_WINDOW_SIZE above the largest window",
            one(setting::INITIAL_WINDOW_SIZE, 1 << 31),
            H2_FLOW_CONTROL,
        ),
        case("6.5.2: MAX_FRAME_SIZE below 16,384", one(setting::MAX_FRAME_SIZE, 16_383), PROTOCOL),
        case(
            "6.5.2: MAX_FRAME_SIZE above 16,777,215",
            one(setting::MAX_FRAME_SIZE, 1 << 24),
            PROTOCOL,
        ),
        case("6.5.2: an unknown setting", vec![settings(&[(setting::UNKNOWN, 1)]), ping(7)], ALIVE),
        stepwise(
            "6.5.3: of two values of a setting the last one holds",
            vec![
                Send(settings(&[
                    (setting::INITIAL_WINDOW_SIZE, 100),
                    (setting::INITIAL_WINDOW_SIZE, 1),
                ])),
                Send(get(1)),
                Window(1),
                Send(window_update(1, 1000)),
            ],
            OK,
        ),
        stepwise(
            "6.5.3: settings are acknowledged",
            vec![Ack, Send(settings(&[])), Ack, Send(ping(7))],
            ALIVE,
        ),
        case("6.7: PING comes back", vec![ping(7)], ALIVE),
        case(
            "6.7: an acknowledgement does not",
            vec![frame(kind::PING, flag::ACK, 0, &[9; 8]), ping(7)],
            ALIVE,
        ),
        case("6.7: PING on a stream", vec![frame(kind::PING, 0, 1, &[7; 8])], PROTOCOL),
        case("6.7: PING of six octets", vec![frame(kind::PING, 0, 0, &[7; 6])], H2_FRAME_SIZE),
        case("6.8: GOAWAY on a stream", vec![frame(kind::GOAWAY, 0, 1, &[0; 8])], PROTOCOL),
    ]
}

fn flow_control() -> Vec<Case> {
    const LARGEST: u32 = (1 << 31) - 1;
    let window = |size| settings(&[(setting::INITIAL_WINDOW_SIZE, size)]);
    vec![
        case("6.9: WINDOW_UPDATE of 0, connection", vec![window_update(0, 0)], PROTOCOL),
        case(
            "6.9: WINDOW_UPDATE of 0, stream",
            vec![slow(1), window_update(1, 0)],
            STREAM_PROTOCOL,
        ),
        case(
            "6.9: WINDOW_UPDATE of three octets",
            vec![frame(kind::WINDOW_UPDATE, 0, 0, &[0; 3])],
            H2_FRAME_SIZE,
        ),
        stepwise(
            "6.9.1: no more than a window of one octet is sent",
            vec![Send([window(1), get(1)].concat()), Window(1), Send(window_update(1, 1000))],
            OK,
        ),
        case(
            "6.9.1: a window above the largest, connection",
            vec![window_update(0, LARGEST), window_update(0, LARGEST)],
            FLOW_CONTROL,
        ),
        case(
            "6.9.1: a window above the largest, stream",
            vec![slow(1), window_update(1, LARGEST), window_update(1, LARGEST)],
            STREAM_FLOW_CONTROL,
        ),
        stepwise(
            "6.9.2: a setting moves the windows of open streams",
            vec![
                Send([window(0), get(1), ping(7)].concat()),
                Send(window(1)),
                Window(1),
                Send(window(1000)),
            ],
            OK,
        ),
        stepwise(
            "6.9.2: a window below zero",
            vec![
                Send([window(3), get(1)].concat()),
                Window(3),
                Send([window(2), window_update(1, 2)].concat()),
                Window(1),
                Send(window_update(1, 1000)),
            ],
            OK,
        ),
        case(
            "6.9.2: a setting above the largest window",
            vec![window(LARGEST + 1)],
            H2_FLOW_CONTROL,
        ),
    ]
}

fn continuations() -> Vec<Case> {
    let begun = headers(1, flag::END_STREAM, &request("GET", "/"));
    let part = |flags| continuation(1, flags, &block(&[("x-a", "b")]));
    vec![
        case(
            "6.10: several CONTINUATION",
            vec![begun.clone(), part(0), part(flag::END_HEADERS)],
            OK,
        ),
        case(
            "6.10: CONTINUATION after the end of a block",
            vec![slow(1), part(flag::END_HEADERS)],
            PROTOCOL,
        ),
        case(
            "6.10: CONTINUATION on stream 0",
            vec![begun.clone(), continuation(0, flag::END_HEADERS, b"")],
            PROTOCOL,
        ),
        case("6.10: CONTINUATION after HEADERS with END_HEADERS", vec![slow(1), part(0)], PROTOCOL),
        case(
            "6.10: CONTINUATION after CONTINUATION with END_HEADERS",
            vec![
                headers(1, flag::END_STREAM, &request("GET", "/slow?ms=60000")),
                part(flag::END_HEADERS),
                part(flag::END_HEADERS),
            ],
            PROTOCOL,
        ),
        case(
            "6.10: CONTINUATION after DATA",
            vec![post(1), data(1, 0, b"test"), part(flag::END_HEADERS)],
            PROTOCOL,
        ),
        case(
            "6.10: DATA inside a header block",
            vec![begun, data(1, flag::END_STREAM, b"test")],
            PROTOCOL,
        ),
    ]
}

fn fields() -> Vec<Case> {
    let (method, scheme, path) = ((":method", "GET"), (":scheme", "http"), (":path", "/"));
    let host = (":authority", PLAIN);
    let malformed = |name, fields: &[(&str, &str)]| case(name, vec![bare(fields)], STREAM_PROTOCOL);
    let more = |name, field| case(name, vec![get_with(&[field])], STREAM_PROTOCOL);
    vec![
        case("8.1: a second HEADERS without END_STREAM", vec![post(1), post(1)], STREAM_PROTOCOL),
        // The name of a field is a matter of h2's decoder.
        case("8.1.2: an upper-case name", vec![get_with(&[("X-Test", "ok")])], STREAM_PROTOCOL),
        more("8.1.2.1: an undefined pseudo-field", (":test", "ok")),
        more("8.1.2.1: a pseudo-field of responses", (":status", "200")),
        case(
            "8.1.2.1: a pseudo-field in trailers",
            vec![post(1), headers(1, flag::WHOLE, &block(&[(":method", "GET")]))],
            // A deviation: the request is malformed, and h2 drops the field and says nothing of it to
            // its user. No upstream ever sees it.
            OK,
        ),
        malformed(
            "8.1.2.1: a pseudo-field after a field",
            &[method, scheme, host, ("x-test", "ok"), path],
        ),
        more("8.1.2.2: a field of the connection", ("connection", "keep-alive")),
        more("8.1.2.2: TE other than trailers", ("te", "trailers, deflate")),
        malformed("8.1.2.3: an empty :path", &[method, scheme, host, (":path", "")]),
        malformed("8.1.2.3: no :method", &[scheme, host, path]),
        malformed("8.1.2.3: no :scheme", &[method, host, path]),
        malformed("8.1.2.3: no :path", &[method, scheme, host]),
        malformed("8.1.2.3: two :method", &[method, method, scheme, host, path]),
        malformed("8.1.2.3: two :scheme", &[method, scheme, scheme, host, path]),
        malformed("8.1.2.3: two :path", &[method, scheme, host, path, path]),
        case("8.1.2.6: less DATA than content-length", measured(&[b"test"]), STREAM_PROTOCOL),
        case(
            "8.1.2.6: less DATA than content-length, in parts",
            measured(&[b"te", b"st"]),
            STREAM_PROTOCOL,
        ),
        case(
            "8.1.2.6: more DATA than content-length",
            measured(&[&b"tests"[..]; 3]),
            STREAM_PROTOCOL,
        ),
    ]
}

/// A request that announces ten octets, with these.
fn measured(parts: &[&[u8]]) -> Vec<Vec<u8>> {
    let head = [request("POST", "/sink"), block(&[("content-length", "10")])].concat();
    let last = parts.len() - 1;
    let part = |(n, part): (usize, &&[u8])| data(1, u8::from(n == last), part);
    let parts = parts.iter().enumerate().map(part);
    [headers(1, flag::END_HEADERS, &head)].into_iter().chain(parts).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case_of_h2spec_is_answered_as_the_rfc_says() {
    let upstream = Upstream::start("one").await.expect("upstream");
    let baton = Baton::start(routed_to(&upstream.address())).await;
    let mut running = JoinSet::new();
    let groups = [
        starting(),
        every_frame(),
        messages(),
        header_compression(),
        frame_format(),
        stream_states(),
        priorities(),
        data_and_headers(),
        setting_values(),
        flow_control(),
        continuations(),
        fields(),
    ];
    for case in groups.into_iter().flatten() {
        running.spawn(verdict(baton.http(PLAIN), case));
    }
    let wrong: Vec<String> = running.join_all().await.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}

/// What is wrong with the answer to a case.
async fn verdict(target: Target, case: Case) -> Option<String> {
    let mut client = FrameClient::connect(&target, &[]).await;
    let seen = play(&mut client, &case).await;
    (!case.allowed.contains(&seen))
        .then(|| format!("{}: {seen:?}, not {:?}", case.name, case.allowed))
}

/// Does what a case says; what it was answered in the end, or at once where that ends it.
async fn play(client: &mut FrameClient, case: &Case) -> Seen {
    let mut status = None;
    for step in &case.steps {
        let met = |frame: &Frame| match step {
            Send(_) => false,
            End(stream) => frame.stream == *stream && frame.ends_stream(),
            Ack => frame.is(kind::SETTINGS, flag::ACK),
            Window(_) => frame.kind == kind::DATA,
        };
        if let Send(bytes) = step {
            // Whether it is taken is seen in the answer.
            client.send(bytes).await;
            continue;
        }
        loop {
            let Some(frame) = client.read().await else { return Seen::Closed };
            status = frame.status().or(status);
            if let Some(seen) = fault(&frame) {
                return ended(client, seen).await;
            }
            if met(&frame) {
                let length = frame.payload.len();
                if matches!(step, Window(window) if *window != length) {
                    return Seen::Data(length);
                }
                break;
            }
        }
    }
    let seen = last(client, case, status).await;
    ended(client, seen).await
}

/// `status`: of a response that has begun.
async fn last(client: &mut FrameClient, case: &Case, mut status: Option<u16>) -> Seen {
    let wants_pong = case.allowed.contains(&Seen::Pong(7));
    while let Some(frame) = client.read().await {
        status = frame.status().or(status);
        if let Some(seen) = fault(&frame) {
            return seen;
        }
        if wants_pong && frame.is(kind::PING, flag::ACK) {
            return Seen::Pong(frame.payload[0]);
        }
        if !wants_pong && frame.ends_stream() {
            return Seen::Answered(status.unwrap_or_default());
        }
    }
    Seen::Closed
}

/// What no case goes on after.
fn fault(frame: &Frame) -> Option<Seen> {
    match frame.code()? {
        code if frame.kind == kind::RST_STREAM => Some(Seen::Reset(code)),
        code::NO_ERROR => None,
        code => Some(Seen::Goaway(code)),
    }
}

/// After a connection error comes the end of the connection.
async fn ended(client: &mut FrameClient, seen: Seen) -> Seen {
    if matches!(seen, Seen::Goaway(_)) {
        assert!(client.find(|_| false).await.is_none());
    }
    seen
}

#[tokio::test]
async fn what_is_no_preface_ends_the_connection() {
    let upstream = Upstream::start("one").await.expect("upstream");
    let baton = Baton::start(routed_to(&upstream.address())).await;
    // Over TLS, where ALPN has said that it is HTTP/2.
    for preface in [
        &b"INVALID CONNECTION PREFACE\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX",
        b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n",
    ] {
        let mut client = FrameClient::silent(&baton.https(APP)).await;
        client.send(preface).await;
        let answer = client
            .find(|frame| frame.kind != kind::SETTINGS && frame.kind != kind::WINDOW_UPDATE)
            .await;
        let code = answer.as_ref().and_then(Frame::code);
        assert!(answer.is_none() || code == Some(code::PROTOCOL_ERROR), "{answer:?}");
    }
    let mut client = FrameClient::silent(&baton.https(APP)).await;
    client.send([PREFACE, &settings(&[])].concat()).await;
    assert_eq!(client.read().await.map(|frame| frame.kind), Some(kind::SETTINGS));
    assert!(client.is_alive().await);
    // A deviation: SETTINGS are a part of the preface (section 3.4), and h2 goes on without them.
    let mut client = FrameClient::silent(&baton.https(APP)).await;
    client.send(PREFACE).await;
    assert!(client.is_alive().await);
}
