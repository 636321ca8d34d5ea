-- Stream tables that are maintained at once.

REVOKE EXECUTE ON FUNCTION pgtrickle._immediate(), pgtrickle._immediate_changed() FROM PUBLIC;

-- Every process remembers which there are. A change of such a row makes all of them look again.
CREATE TRIGGER immediate_inserted AFTER INSERT ON pgtrickle.pgt_stream_tables FOR EACH ROW
    WHEN (NEW.refresh_mode = 'IMMEDIATE') EXECUTE FUNCTION pgtrickle._immediate_changed();
CREATE TRIGGER immediate_updated AFTER UPDATE ON pgtrickle.pgt_stream_tables FOR EACH ROW
    WHEN ('IMMEDIATE' IN (OLD.refresh_mode, NEW.refresh_mode)) EXECUTE FUNCTION pgtrickle._immediate_changed();
CREATE TRIGGER immediate_deleted AFTER DELETE ON pgtrickle.pgt_stream_tables FOR EACH ROW
    WHEN (OLD.refresh_mode = 'IMMEDIATE') EXECUTE FUNCTION pgtrickle._immediate_changed();
