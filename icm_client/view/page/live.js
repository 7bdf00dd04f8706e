"use strict";
// Replaces the sections of a page that have changed. The pages work without it, and stand still.
