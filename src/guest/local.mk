# src/guest
