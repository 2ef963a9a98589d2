//! The HTTP API: `GET /health` and `GET /api/cluster`. What the command line shows of the cluster,
//! as JSON.

use std::sync::Arc;

use actix_web::{App, HttpResponse, HttpServer, Responder, dev::Server, web};
use baton_protocol::metadata::ClusterView;
use serde::Serialize;

use crate::shared::Shared;

#[derive(Serialize)]
struct Health {
    broker: u32,
    registered: bool,
    controller: Option<u32>,
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
    let view: Option<ClusterView> = shared.view(None);
    match view {
        Some(view) => HttpResponse::Ok().json(view),
        None => HttpResponse::ServiceUnavailable()
            .body("this broker has not heard of a controller yet\n"),
    }
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
