# src/replica
