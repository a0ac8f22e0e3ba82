//! What the DNS says of a name: addresses, aliases, its zone, and who is authoritative for that.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::rr::{Name, RData, RecordType};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;

use super::{DnsError, parse, text};

/// For one server to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// The server of this host.
const OWN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53);
/// Aliases that lead to each other are followed so far.
const MOST_ALIASES: usize = 8;

#[derive(Debug, Clone)]
pub struct Names {
    /// None: those of /etc/resolv.conf, as it is when somebody asks.
    server: Option<SocketAddr>,
    /// The server shall ask others.
    is_recursive: bool,
}

impl Names {
    /// Asks this server, or those of /etc/resolv.conf.
    pub fn new(server: Option<SocketAddr>) -> Self {
        Names { server, is_recursive: true }
    }

    /// Asks this server for what it knows itself.
    pub fn at(server: SocketAddr) -> Self {
        Names { server: Some(server), is_recursive: false }
    }

    /// None where the name does not exist, or has none.
    pub async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, DnsError> {
        self.addresses_of(&parse(name)?).await
    }

    async fn addresses_of(&self, name: &Name) -> Result<Vec<IpAddr>, DnsError> {
        match self.resolver()?.lookup_ip(name.clone()).await {
            Ok(found) => Ok(found.iter().collect()),
            Err(error) if error.is_no_records_found() => Ok(Vec::new()),
            Err(error) => Err(failed(name, error)),
        }
    }

    /// What the name is an alias of, at last; itself where it is none.
    pub async fn target(&self, name: Name) -> Result<Name, DnsError> {
        let mut at = name.clone();
        for _ in 0..MOST_ALIASES {
            let found = self.lookup(&at, RecordType::CNAME).await?;
            let alias =
                found.iter().flat_map(Lookup::answers).find_map(|record| match &record.data {
                    RData::CNAME(target) if record.name == at => Some(target.0.clone()),
                    _ => None,
                });
            match alias {
                Some(target) => at = target,
                None => return Ok(at),
            }
        }
        Err(DnsError::Aliases(text(&name)))
    }

    /// The zone that has the name: the nearest one upwards with an SOA record.
    pub async fn zone(&self, name: &Name) -> Result<Name, DnsError> {
        let mut at = name.clone();
        while !at.is_root() {
            let found = self.lookup(&at, RecordType::SOA).await?;
            let mut records = found.iter().flat_map(Lookup::answers);
            if records.any(|record| record.record_type() == RecordType::SOA && record.name == at) {
                return Ok(at);
            }
            at = at.base_name();
        }
        Err(DnsError::NoZone(text(name)))
    }

    /// The authoritative servers of a zone, each with its addresses.
    pub async fn servers(&self, zone: &Name) -> Result<Vec<(Name, Vec<IpAddr>)>, DnsError> {
        let found = self.lookup(zone, RecordType::NS).await?;
        let mut servers = Vec::new();
        for record in found.iter().flat_map(Lookup::answers) {
            if let RData::NS(server) = &record.data {
                let addresses = self.addresses_of(&server.0).await?;
                servers.push((server.0.clone(), addresses));
            }
        }
        Ok(servers)
    }

    /// The values of the TXT records of a name.
    pub async fn texts(&self, name: &Name) -> Result<Vec<String>, DnsError> {
        let found = self.lookup(name, RecordType::TXT).await?;
        let texts =
            found.iter().flat_map(Lookup::answers).filter_map(|record| match &record.data {
                RData::TXT(text) => {
                    Some(String::from_utf8_lossy(&text.txt_data.concat()).into_owned())
                }
                _ => None,
            });
        Ok(texts.collect())
    }

    /// None where there is no such record.
    async fn lookup(&self, name: &Name, kind: RecordType) -> Result<Option<Lookup>, DnsError> {
        match self.resolver()?.lookup(name.clone(), kind).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_no_records_found() => Ok(None),
            Err(error) => Err(failed(name, error)),
        }
    }

    fn resolver(&self) -> Result<TokioResolver, DnsError> {
        let mut builder = match self.server {
            Some(server) => of_server(server),
            // Without that file the host's own server is asked (resolv.conf(5)).
            None => TokioResolver::builder_tokio().unwrap_or_else(|_| of_server(OWN)),
        };
        let options = builder.options_mut();
        options.timeout = ANSWER_LIMIT;
        // What was true a moment ago is of no use to somebody who waits for a change, and what this
        // host alone knows of none to somebody who asks what a CA will see.
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.recursion_desired = self.is_recursive;
        builder.build().map_err(|error| DnsError::Resolver(Box::new(error)))
    }
}

fn failed(name: &Name, error: NetError) -> DnsError {
    DnsError::Lookup { name: text(name), source: Box::new(error) }
}

type Builder = hickory_resolver::ResolverBuilder<TokioRuntimeProvider>;

fn of_server(server: SocketAddr) -> Builder {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    connections.iter_mut().for_each(|connection| connection.port = server.port());
    let server = NameServerConfig::new(server.ip(), true, connections);
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
}
