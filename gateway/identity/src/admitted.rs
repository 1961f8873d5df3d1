//! A connection as a gRPC server takes it: its byte stream, who is at the other end, and the place it holds, which it gives up to
//! another one when it is told to.

use std::{
    error::Error,
    io,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use causeway_host::{accept::ConnectionPlace, places::Place};
use futures_util::future::BoxFuture;
use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::{
    body::Body,
    codegen::{
        Bytes,
        http::{Request, Response},
    },
    transport::server::Connected,
};
use tower::{Layer, Service};

/// A connection that was let in, for a gRPC server: its byte stream, who is at the other end, and the place that it holds
/// among those that are served at once.
pub struct Admitted<S, F> {
    stream: S,
    from: F,
    place: ConnectionPlace,
    /// Is over once another connection takes the place.
    giving_way: BoxFuture<'static, ()>,
}

impl<S, F> Admitted<S, F> {
    /// Calls on this connection find `from` among their extensions, if they come through a [`CallsLayer`]; `place` is free again when
    /// it is dropped.
    pub fn new(stream: S, from: F, place: ConnectionPlace) -> Self {
        let giving_way = Box::pin(place.place.gives_way().clone().cancelled_owned());
        Self {
            stream,
            from,
            place,
            giving_way,
        }
    }
}

/// Peer of an [`Admitted`] connection, as a call finds it before it comes through a [`CallsLayer`].
#[derive(Debug, Clone)]
pub struct AdmittedPeer<F> {
    from: F,
    place: Arc<Place>,
}

impl<S, F: Clone + Send + Sync + 'static> Connected for Admitted<S, F> {
    type ConnectInfo = AdmittedPeer<F>;

    fn connect_info(&self) -> AdmittedPeer<F> {
        AdmittedPeer {
            from: self.from.clone(),
            place: self.place.place.clone(),
        }
    }
}

impl<S: AsyncRead + Unpin, F: Unpin> AsyncRead for Admitted<S, F> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // What has arrived is answered first.
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, buffer) {
            return Poll::Ready(read);
        }
        ready!(self.giving_way.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::ConnectionAborted,
            "another connection has taken its place",
        )))
    }
}

impl<S: AsyncWrite + Unpin, F: Unpin> AsyncWrite for Admitted<S, F> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Layer that counts the calls under way on each [`Admitted`] connection, because one without any gives way first, and puts who is at the
/// other end (`F`) among the extensions of each.
#[derive(Debug)]
pub struct CallsLayer<F>(PhantomData<fn() -> F>);

impl<F> Default for CallsLayer<F> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<F> Clone for CallsLayer<F> {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl<S, F> Layer<S> for CallsLayer<F> {
    type Service = CountedCalls<S, F>;

    fn layer(&self, inner: S) -> CountedCalls<S, F> {
        CountedCalls {
            inner,
            layer: self.clone(),
        }
    }
}

/// Service whose calls are counted.
#[derive(Debug)]
pub struct CountedCalls<S, F> {
    inner: S,
    layer: CallsLayer<F>,
}

impl<S: Clone, F> Clone for CountedCalls<S, F> {
    fn clone(&self) -> Self {
        self.layer.layer(self.inner.clone())
    }
}

impl<S, F, B> Service<Request<Body>> for CountedCalls<S, F>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    F: Clone + Send + Sync + 'static,
    B: BodyExt<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let peer = request.extensions_mut().remove::<AdmittedPeer<F>>();
        let call = peer.map(|AdmittedPeer { from, place }| {
            request.extensions_mut().insert(from);
            place.call()
        });
        let answering = self.inner.call(request);
        Box::pin(async move {
            let answer = answering.await?;
            // Until the last byte of the answer is taken.
            Ok(answer.map(|body| {
                Body::new(body.inspect_frame(move |_| {
                    let _under_way = &call;
                }))
            }))
        })
    }
}
