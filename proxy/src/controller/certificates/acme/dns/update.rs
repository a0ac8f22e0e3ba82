//! Dynamic updates of a zone (RFC 2136), signed with a shared key (TSIG, RFC 8945).

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use hickory_net::client::{Client, ClientHandle};
use hickory_net::runtime::TokioRuntimeProvider;
use hickory_net::tcp::TcpClientStream;
use hickory_net::{DnsMultiplexer, NetError};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::rdata::tsig::TsigAlgorithm as Mac;
use hickory_proto::rr::{Name, RData, Record as Resource, TSigner};

use super::names::Names;
use super::{Change, DnsError, Record, parse, text};
use crate::config::{DnsUpdate, Secret, TsigAlgorithm, decode_secret};

/// For the connection, and for the answer.
const LIMIT: Duration = Duration::from_secs(10);
/// Of a record that lives for minutes, in seconds.
const TTL: u32 = 60;
/// How far the clocks may be apart, in seconds (RFC 8945 section 10).
const FUDGE: u16 = 300;

pub async fn send(
    update: &DnsUpdate,
    names: &Names,
    change: Change,
    record: &Record,
) -> Result<(), DnsError> {
    let zone = match &update.zone {
        Some(zone) => parse(zone)?,
        None => names.zone(&record.name).await?,
    };
    let failed =
        |reason: String| DnsError::Update { zone: text(&zone), server: update.server, reason };
    if !zone.zone_of(&record.name) {
        return Err(failed(format!("{} is not in this zone", text(&record.name))));
    }
    let signer = signer(update)?;
    match exchange(update.server, signer, &zone, change, record).await {
        Ok(ResponseCode::NoError) => Ok(()),
        Ok(code) => Err(failed(format!("refused: {code}"))),
        // A server that does not know the key cannot sign its answer (RFC 8945 section 5.3.2), which
        // the library takes for a malformed one.
        Err(NetError::Proto(_)) => Err(failed(format!(
            "the answer is not signed with key {}: does the server know it, with this secret and \
             algorithm",
            update.key_name
        ))),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Over TCP: the answer cannot be somebody else's, and none is lost.
async fn exchange(
    server: SocketAddr,
    signer: TSigner,
    zone: &Name,
    change: Change,
    record: &Record,
) -> Result<ResponseCode, NetError> {
    let provider = TokioRuntimeProvider::new();
    let (stream, sender) = TcpClientStream::new(server, None, Some(LIMIT), provider);
    let multiplexer =
        DnsMultiplexer::new(stream.await?, sender).with_timeout(LIMIT).with_signer(signer);
    let (mut client, background) = Client::<TokioRuntimeProvider>::from_sender(multiplexer);
    let text = RData::TXT(TXT::new(vec![record.value.clone()]));
    let resource = Resource::from_rdata(record.name.clone(), TTL, text);
    let update = async {
        match change {
            Change::Present => client.append(resource, zone.clone(), false).await,
            Change::CleanUp => client.delete_by_rdata(resource, zone.clone()).await,
        }
    };
    // The connection is driven as long as its one answer is waited for.
    tokio::select! {
        answer = update => Ok(answer?.response_code),
        () = background => Err("the connection has ended".into()),
    }
}

fn signer(update: &DnsUpdate) -> Result<TSigner, DnsError> {
    let secret = match &update.secret {
        Secret::Bytes(bytes) => bytes.clone(),
        Secret::File(path) => read_secret(path)?,
    };
    let mac = match update.algorithm {
        TsigAlgorithm::HmacSha256 => Mac::HmacSha256,
        TsigAlgorithm::HmacSha384 => Mac::HmacSha384,
        TsigAlgorithm::HmacSha512 => Mac::HmacSha512,
    };
    let name = parse(&update.key_name)?;
    Ok(TSigner::new(secret, mac, name, FUDGE).expect("these algorithms are supported"))
}

fn read_secret(path: &Path) -> Result<Vec<u8>, DnsError> {
    let failed = |reason: String| DnsError::KeyFile { path: path.to_owned(), reason };
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    decode_secret(&text).ok_or_else(|| failed("not base64, and nothing else".to_owned()))
}
