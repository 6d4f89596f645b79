-- The indexes that the migrations leave behind, one a line, without those of constraints.
-- `make optimize-db` builds what is missing of them; a test compares this file with a migrated database.
CREATE INDEX account_changes_account ON account_changes USING btree (account_no, changed_at);
CREATE UNIQUE INDEX accounts_external ON accounts USING btree (currency) WHERE (kind = 'external'::text);
CREATE INDEX api_keys_live ON api_keys USING btree (created_at) WHERE (revoked_at IS NULL);
CREATE INDEX holds_account ON holds USING btree (account_no, hold_no);
CREATE INDEX holds_due ON holds USING btree (expires_at, hold_no) WHERE ((status = 'HELD'::text) AND (expires_at IS NOT NULL));
CREATE INDEX holds_open ON holds USING btree (account_no) INCLUDE (amount_minor, captured_minor, released_minor) WHERE (status = 'HELD'::text);
CREATE INDEX holds_status ON holds USING btree (account_no, status, hold_no);
CREATE INDEX journal_batches_pending ON journal_batches USING btree (batch_seq) INCLUDE (created_at) WHERE (status = 'PENDING'::text);
CREATE INDEX journal_batches_pending_time ON journal_batches USING btree (created_at) WHERE (status = 'PENDING'::text);
CREATE INDEX journal_batches_settlement ON journal_batches USING btree (settlement_id) WHERE (settlement_id IS NOT NULL);
CREATE INDEX journal_batches_time ON journal_batches USING btree (created_at, batch_seq);
CREATE INDEX journal_entries_account_at ON journal_entries USING btree (account_no, created_at);
CREATE INDEX journal_entries_effective ON journal_entries USING btree (account_no, created_at, effective_at) WHERE (effective_at IS NOT NULL);
CREATE INDEX journal_entries_reference ON journal_entries USING btree (reference, created_at) WHERE (reference IS NOT NULL);
CREATE INDEX settlement_lines_settlement ON settlement_lines USING btree (settlement_id);
CREATE INDEX settlements_settled_at ON settlements USING btree (settled_at);
CREATE INDEX webhook_deliveries_webhook ON webhook_deliveries USING btree (webhook_no, status, delivery_no);
