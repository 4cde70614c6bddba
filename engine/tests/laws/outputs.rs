//! What a row becomes, whatever its batch mates become, and what the tokenizer alone is asked.

use polylora_engine::*;

use crate::fakes::*;
use crate::harness::*;

/// The same request for another output.
fn with(output: RowOutput, request: EmbedRequest) -> EmbedRequest {
    EmbedRequest { output, ..request }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_all_outputs_share_a_batch_and_each_becomes_what_it_asked_for() {
    let (engine, control) = start(config()).await;
    let holder = hold_device(&engine, &control);
    let (one, two): (&[u32], &[u32]) = (&[5, 6, 7], &[8]);
    let asked =
        [RowOutput::Embedding, RowOutput::Tokens, RowOutput::Raw, RowOutput::Normalized, RowOutput::Tokens];
    let clients: Vec<_> =
        asked.iter().map(|&output| client(&engine, with(output, ids(None, &[one, two])))).collect();
    until("all rows wait", || metric(&engine, "polylora_queue_rows") == 2.0 * asked.len() as f64).await;
    control.device_gate.open();
    holder.await.unwrap();
    for (output, client) in asked.into_iter().zip(clients) {
        let found = client.await.unwrap().unwrap().embeddings;
        let expected = |ids: &[u32]| match output {
            RowOutput::Tokens => ids.iter().flat_map(|&id| embedding_of(None, &[id])).collect(),
            _ => embedding_of(None, ids),
        };
        assert_eq!(found, [expected(one), expected(two)], "{output:?}");
    }
    let batches = control.batches.lock().clone();
    assert!(batches.iter().any(|rows| rows.len() == 2 * asked.len()), "{batches:?}");
    control.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_embeddings_are_cut_without_being_scaled_and_others_have_norm_one_again() {
    let (engine, _) = start(config()).await;
    let whole = embedding_of(None, &[5, 6]);
    let cut = |output| {
        let request = EmbedRequest { dimensions: Some(3), ..with(output, ids(None, &[&[5, 6]])) };
        let engine = engine.clone();
        async move { engine.embed(request).await.unwrap().embeddings.remove(0) }
    };
    assert_eq!(cut(RowOutput::Raw).await, whole[..3]);
    for output in [RowOutput::Embedding, RowOutput::Normalized] {
        let norm = cut(output).await.iter().map(|value| value * value).sum::<f32>().sqrt();
        assert!((norm - 1.0).abs() < 1e-6, "{output:?}: {norm}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_side_that_is_cut_off_is_the_one_that_was_asked_for_and_special_tokens_stay() {
    let (engine, control) = start(config()).await;
    let text = "x".repeat(MAX_TOKENS) + "end";
    let all: Vec<u32> = (0..MAX_TOKENS as u32 + 5).collect();
    for (side, of_text, of_ids) in [
        (TruncationSide::Right, "x".repeat(MAX_TOKENS - 2), &all[..MAX_TOKENS]),
        (TruncationSide::Left, "x".repeat(MAX_TOKENS - 5) + "end", &all[5..]),
    ] {
        let long = EmbedRequest {
            inputs: vec![EmbedInput::Text(text.clone()), EmbedInput::Tokens(all.clone())],
            truncate: true,
            truncation_side: side,
            ..EmbedRequest::default()
        };
        let reply = engine.embed(long).await.unwrap();
        let expected = [embedding_of(None, &ids_of(&of_text)), embedding_of(None, of_ids)];
        assert_eq!(reply.embeddings, expected, "{side:?}");
        assert_eq!(reply.tokens, 2 * MAX_TOKENS);
    }
    control.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_with_a_vector_for_each_token_has_a_bound_and_others_have_none() {
    let (engine, _) = start(config()).await;
    let row = [7; MAX_TOKENS];
    let rows: Vec<&[u32]> = vec![&row; 8192 / MAX_TOKENS + 1];
    let answer = engine.embed(with(RowOutput::Tokens, ids(None, &rows))).await;
    assert_eq!(answer.unwrap_err(), EmbedError::TooManyTokens { found: 8192 + MAX_TOKENS, max: 8192 });
    let fits = engine.embed(with(RowOutput::Tokens, ids(None, &rows[1..]))).await.unwrap();
    assert!(fits.embeddings.iter().all(|row| row.len() == MAX_TOKENS * WIDTH));
    assert!(engine.embed(ids(None, &rows)).await.is_ok());
    assert_eq!(engine.in_flight(), InFlight { requests: 0, rows: 0 });
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_become_tokens_and_tokens_texts_within_the_bounds_of_requests() {
    let (engine, _) = start(EngineConfig { max_client_batch_size: 2, ..config() }).await;
    let tokenize = |texts: &[&str], special_tokens| {
        let texts = texts.iter().map(|&text| text.to_owned()).collect();
        engine.tokenize(TokenizeRequest { texts, prompt_name: Some("query".to_owned()), special_tokens })
    };
    let lists = tokenize(&["ab", "c"], true).await.unwrap();
    let texts: Vec<Vec<&str>> =
        lists.iter().map(|list| list.iter().map(|token| token.text.as_str()).collect()).collect();
    assert_eq!(texts, [vec!["<1>", "q", ":", "a", "b", "<2>"], vec!["<1>", "q", ":", "c", "<2>"]]);
    assert!(lists[0][0].is_special() && !lists[0][1].is_special());
    assert_eq!(tokenize(&["a"], false).await.unwrap()[0].len(), 3);
    assert_eq!(tokenize(&[], true).await.unwrap_err(), EmbedError::NoInputs);
    assert_eq!(tokenize(&["a", ""], true).await.unwrap_err(), EmbedError::EmptyInput { index: 1 });
    let many = tokenize(&["a"; 3], true).await.unwrap_err();
    assert_eq!(many, EmbedError::TooManyInputs { found: 3, max: 2 });
    let long = "a".repeat(65_536);
    assert!(matches!(tokenize(&[&long], true).await, Err(EmbedError::TooManyTokens { .. })));

    let decode = |ids: &[&[u32]], skip_special_tokens| {
        let ids = ids.iter().map(|ids| ids.to_vec()).collect();
        engine.decode(DecodeRequest { ids, skip_special_tokens })
    };
    assert_eq!(decode(&[&[1, 97, 98, 2], &[99]], true).await.unwrap(), ["ab", "c"]);
    assert_eq!(decode(&[&[1, 97]], false).await.unwrap(), ["\u{1}a"]);
    assert_eq!(decode(&[&[97], &[]], true).await.unwrap_err(), EmbedError::EmptyInput { index: 1 });
    let foreign = EmbedError::TokenOutOfVocabulary { index: 0, token: 1000, vocab_size: 1000 };
    assert_eq!(decode(&[&[999, 1000]], true).await.unwrap_err(), foreign);
    assert_eq!(engine.in_flight(), InFlight { requests: 0, rows: 0 });
    engine.shutdown(std::time::Duration::ZERO).await;
    assert_eq!(decode(&[&[97]], true).await.unwrap_err(), EmbedError::ShuttingDown);
    assert_eq!(tokenize(&["a"], true).await.unwrap_err(), EmbedError::ShuttingDown);
}
