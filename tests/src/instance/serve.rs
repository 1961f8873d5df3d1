//! The work of an instance on each connection.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::sleep,
};

use super::{Behaviour, KEPT_BYTES, Received, locked, pattern};

/// Bytes that are moved at a time.
const CHUNK_BYTES: usize = 64 * 1024;

type Records = Arc<Mutex<Vec<Received>>>;

pub(super) async fn accept(listener: TcpListener, name: String, behaviour: Behaviour, records: Records) {
    // Connections end with the instance, because dropping the set aborts them.
    let mut connections = JoinSet::new();
    let places = Arc::new(Semaphore::new(match behaviour {
        Behaviour::Busy { at_once, .. } => at_once,
        _ => Semaphore::MAX_PERMITS,
    }));
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let _ = stream.set_nodelay(true);
        let connection = Connection::new(stream, Arc::clone(&records), Arc::clone(&places));
        let name = name.clone();
        connections.spawn(connection.serve(name, behaviour));
    }
}

/// A connection that writes down what it reads.
struct Connection {
    stream: TcpStream,
    records: Records,
    /// Of requests that are worked on.
    places: Arc<Semaphore>,
    index: usize,
}

impl Connection {
    fn new(stream: TcpStream, records: Records, places: Arc<Semaphore>) -> Self {
        let mut list = locked(&records);
        list.push(Received::default());
        let index = list.len() - 1;
        drop(list);
        Self {
            stream,
            records,
            places,
            index,
        }
    }

    async fn serve(mut self, name: String, behaviour: Behaviour) {
        let result = match behaviour {
            Behaviour::Echo => self.echo().await,
            Behaviour::Name => self.name(&name).await,
            Behaviour::Http => self.http(&name, Duration::ZERO).await,
            Behaviour::Busy { takes, .. } => self.http(&name, takes).await,
            Behaviour::Download { bytes } => self.download(bytes).await,
            Behaviour::Count => self.count().await,
        };
        if result.is_err() {
            self.note(|received| received.broken = true);
        }
    }

    fn note(&self, change: impl FnOnce(&mut Received)) {
        if let Some(received) = locked(&self.records).get_mut(self.index) {
            change(received);
        }
    }

    /// Reads once; an empty answer is the end.
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.stream.read(buffer).await?;
        self.note(|received| {
            let room = KEPT_BYTES - received.bytes.len();
            received.bytes.extend_from_slice(&buffer[..length.min(room)]);
            received.length += length as u64;
            received.finished |= length == 0;
        });
        Ok(length)
    }

    async fn echo(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let length = self.read(&mut buffer).await?;
            if length == 0 {
                return self.stream.shutdown().await;
            }
            self.stream.write_all(&buffer[..length]).await?;
        }
    }

    /// Reads up to the end of a line or of a request's header; `None` at the end of the stream.
    async fn block(&mut self, rest: &mut Vec<u8>, end: &[u8]) -> io::Result<Option<String>> {
        let mut buffer = vec![0; 4096];
        loop {
            if let Some(at) = rest.windows(end.len()).position(|window| window == end) {
                let block: Vec<u8> = rest.drain(..at + end.len()).collect();
                return Ok(Some(String::from_utf8_lossy(&block).into_owned()));
            }
            let length = self.read(&mut buffer).await?;
            if length == 0 {
                return Ok(None);
            }
            rest.extend_from_slice(&buffer[..length]);
        }
    }

    async fn name(&mut self, name: &str) -> io::Result<()> {
        let mut rest = Vec::new();
        while let Some(line) = self.block(&mut rest, b"\n").await? {
            self.stream.write_all(format!("{name} {line}").as_bytes()).await?;
        }
        self.stream.shutdown().await
    }

    async fn http(&mut self, name: &str, takes: Duration) -> io::Result<()> {
        let mut rest = Vec::new();
        while let Some(header) = self.block(&mut rest, b"\r\n\r\n").await? {
            let path = header.split(' ').nth(1).unwrap_or("/");
            if !takes.is_zero() {
                let place = self.places.acquire().await;
                sleep(takes).await;
                drop(place);
            }
            let download = path.strip_prefix("/bytes/").and_then(|n| n.parse::<u64>().ok());
            let length = download.unwrap_or(name.len() as u64 + 1);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
            self.stream.write_all(head.as_bytes()).await?;
            match download {
                Some(bytes) => self.send(bytes).await?,
                None => self.stream.write_all(format!("{name}\n").as_bytes()).await?,
            }
        }
        self.stream.shutdown().await
    }

    async fn download(&mut self, bytes: u64) -> io::Result<()> {
        self.send(bytes).await?;
        self.stream.shutdown().await
    }

    async fn send(&mut self, bytes: u64) -> io::Result<()> {
        let mut sent = 0;
        while sent < bytes {
            let end = bytes.min(sent + CHUNK_BYTES as u64);
            let chunk: Vec<u8> = (sent..end).map(pattern).collect();
            self.stream.write_all(&chunk).await?;
            sent = end;
        }
        Ok(())
    }

    async fn count(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut total = 0;
        loop {
            let length = self.read(&mut buffer).await?;
            if length == 0 {
                self.stream.write_all(total.to_string().as_bytes()).await?;
                return self.stream.shutdown().await;
            }
            total += length;
        }
    }
}
