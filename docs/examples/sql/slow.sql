ALTER TABLE students ADD COLUMN card uuid DEFAULT gen_random_uuid();
CREATE INDEX students_card_idx ON students (card);
