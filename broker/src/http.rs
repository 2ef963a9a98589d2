//! The HTTP API: `GET /health` and `GET /api/cluster`. What the command line shows of the cluster,
//! as JSON.

use std::sync::Arc;
use std::time::Duration;

use actix_web::{App, HttpResponse, HttpServer, Responder, dev::Server, web};
use baton_protocol::admin::{AdminRequest, AdminResponse, PartitionTrouble};
use baton_protocol::metadata::ClusterView;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::shared::Shared;

#[derive(Serialize)]
struct Health {
    broker: u32,
    registered: bool,
    controller: Option<u32>,
}

/// How long the controller may take to say what is wrong.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Serialize)]
struct Cluster {
    #[serde(flatten)]
    view: ClusterView,
    /// What is wrong, and why; null while no controller answers.
    troubles: Option<Vec<PartitionTrouble>>,
}

async fn health(shared: web::Data<Shared>) -> impl Responder {
    let health = Health {
        broker: shared.broker.0,
        registered: shared.me().is_some(),
        controller: shared.known.borrow().controller.map(|id| id.0),
    };
    if health.registered && health.controller.is_some() {
        HttpResponse::Ok().json(health)
    } else {
        HttpResponse::ServiceUnavailable().json(health)
    }
}

async fn cluster(shared: web::Data<Shared>) -> impl Responder {
    let Some(view) = shared.view(None) else {
        return HttpResponse::ServiceUnavailable()
            .body("this broker has not heard of a controller yet\n");
    };
    let asked = shared.control.ask(AdminRequest::ClusterStatus);
    let troubles = match timeout(STATUS_TIMEOUT, asked).await {
        Ok(Ok(AdminResponse::ClusterStatus(status))) => Some(status.troubles),
        Ok(_) | Err(_) => None,
    };
    HttpResponse::Ok().json(Cluster { view, troubles })
}

/// Serves the API on `listener`.
pub fn serve(listener: std::net::TcpListener, shared: Arc<Shared>) -> std::io::Result<Server> {
    let shared = web::Data::from(shared);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(shared.clone())
            .route("/health", web::get().to(health))
            .route("/api/cluster", web::get().to(cluster))
    });
    // The broker handles signals itself.
    Ok(server.workers(1).disable_signals().listen(listener)?.run())
}

/// Whether the broker whose API is served at `address` says that it is well: it has registered, and
/// knows the controller.
pub async fn is_healthy(address: &str) -> bool {
    let ask = async {
        let mut socket = TcpStream::connect(address).await?;
        socket
            .write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await?;
        let mut head = [0; 12];
        socket.read_exact(&mut head).await?;
        std::io::Result::Ok(head)
    };
    matches!(timeout(Duration::from_millis(500), ask).await, Ok(Ok(head)) if head.ends_with(b"200"))
}
